"""The demo's child processes end with it, even if it is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celery_partitions.testing.lifeline import lifeline
from tests.support.wait import wait_until

SLEEP = [sys.executable, "-c", "import os, time; print(os.getpid(), flush=True); time.sleep(600)"]
STUBBORN = [sys.executable, "-c", "import signal, time; signal.signal(15, signal.SIG_IGN); time.sleep(600)"]

#: A process that holds a lifeline, prints the process id of the command it keeps, and never leaves the block by itself.
HOLDER = """
import os, sys, time
from pathlib import Path
from celery_partitions.testing.lifeline import leave_on_signals, lifeline
leave_on_signals()
with lifeline(sys.argv[2:], environment=os.environ, grace_seconds=5, scratch=Path(sys.argv[1])):
    time.sleep(600)
"""


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    # A zombie has ended, but its parent has not waited for it yet.
    stat = Path(f"/proc/{pid}/stat")
    return not stat.exists() or stat.read_text().rpartition(") ")[2][0] != "Z"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT], ids=lambda number: number.name)
def test_the_command_and_its_folder_end_with_a_killed_parent(tmp_path: Path, number: signal.Signals) -> None:
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(scratch), *SLEEP],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with holder:
        assert holder.stdout is not None
        pid = int(holder.stdout.readline())
        assert is_running(pid)
        holder.send_signal(number)
        wait_until(lambda: not is_running(pid), message="the command still runs")
        wait_until(lambda: not scratch.exists(), message="its folder is still there")


def test_the_parent_sees_the_command_end() -> None:
    command = [sys.executable, "-c", "raise SystemExit(7)"]
    with lifeline(command, environment=os.environ, grace_seconds=5) as keeper:
        assert keeper.wait(timeout=60) == 7


def test_a_command_that_ignores_the_first_signal_is_killed() -> None:
    with lifeline(STUBBORN, environment=os.environ, grace_seconds=0.1) as keeper:
        pass
    assert keeper.returncode in (128 + signal.SIGKILL, 128 + signal.SIGTERM)
