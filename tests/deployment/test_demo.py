"""`make dev` as a newcomer sees it. tests/adoption/test_readme.py runs `make demo`."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from celery_partitions.demo.keep import LOG, WORKERS
from tests.support.server import free_port
from tests.support.wait import wait_until
from tests.support.worker import ROOT

#: Longer than all processes of the demo need on a busy machine.
SECONDS = 120.0

pytestmark = [pytest.mark.timeout(4 * SECONDS)]


def environment() -> dict[str, str]:
    """The environment of a shell without any of our variables."""
    return {**{name: value for name, value in os.environ.items() if name != "REDIS_URL"}, "PORT": str(free_port())}


@pytest.fixture
def dev(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """`make dev` with its output in a file. It is stopped at the end, even if the test fails."""
    with (tmp_path / "screen").open("wb") as screen:
        process = subprocess.Popen(
            [sys.executable, "-m", "celery_partitions.demo", "--keep"],
            cwd=ROOT, env=environment(), stdin=subprocess.DEVNULL, stdout=screen, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            process.wait(SECONDS)


def test_dev_shows_one_screen_whose_commands_work_as_printed(dev: subprocess.Popen[bytes], tmp_path: Path) -> None:
    def screen() -> str:
        return (tmp_path / "screen").read_text()

    wait_until(lambda: "Ctrl-C stops everything" in screen() or dev.poll() is not None, SECONDS, message="no addresses")
    before, _, commands = screen().partition("Type this in another terminal")
    assert len(screen().splitlines()) <= 24
    assert "State       not kept" in before
    activate, *rest = [line.strip() for line in commands.partition("Ctrl-C")[0].splitlines()[2:-1]]
    exports = [line for line in rest if line.startswith("export")]
    status, send, state = (line for line in rest if line not in exports)
    prefix = "\n".join([activate, *exports])

    def typed(command: str) -> subprocess.CompletedProcess[str]:
        whole = f"{prefix}\n{command}"
        return subprocess.run(["/bin/sh", "-c", whole], cwd=ROOT, env=environment(), capture_output=True, text=True, timeout=SECONDS)

    owners = {line.split()[1] for line in typed(status).stdout.splitlines() if line.startswith("partition.")}
    assert len(owners) == WORKERS
    assert typed(send).returncode == 0
    wait_until(lambda: "price = 191.2" in typed(state).stdout, SECONDS, message="the message is not processed")
    assert "Inspect method" not in LOG.read_text()
    dev.send_signal(signal.SIGINT)
    assert dev.wait(SECONDS) == 0
