"""Which modules a producer, and any other `celery` command, load because this package is installed."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

#: The code of workers, pages and commands, and the libraries that only they use.
NOT_FOR_PRODUCERS = (
    "celery.worker.consumer", "celery_partitions.cli", "celery_partitions.dashboard", "celery_partitions.demo", "celery_partitions.testing",
    "celery_partitions.wallaroo", "celery_partitions.worker", "flower", "prometheus_client", "rich", "tornado",
)  # fmt: skip

PRODUCER = """
import json, sys
from celery import Celery
from celery_partitions import Settings, computation, install
app = Celery("shop", broker=sys.argv[1])
install(app, Settings(partitions=2))
@computation("f", key=str)
def f(word: str) -> None: ...
f.delay("a")
f.send_many(["b"])
f.apply_async(("c",))
app.send_task("f", args=["d"])
print(json.dumps(sorted(sys.modules)))
"""

#: Counts the modules that the entry point adds to a process that has loaded Celery's command line.
COMMAND = """
import json, sys, click
from importlib.metadata import entry_points
(found,) = entry_points(group="celery.commands", name="partitions")
before = set(sys.modules)
found.load()
print(json.dumps(sorted(set(sys.modules) - before)))
"""


def modules_of(code: str, *words: str) -> set[str]:
    done = subprocess.run([sys.executable, "-c", code, *words], env=os.environ, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    return set(json.loads(done.stdout))


def test_a_producer_loads_nothing_of_workers_pages_and_commands(redis_url: str) -> None:
    loaded = modules_of(PRODUCER, redis_url)
    unwanted = {name for name in loaded for root in NOT_FOR_PRODUCERS if name == root or name.startswith(f"{root}.")}
    assert unwanted == set()


def test_celerys_command_line_loads_two_modules_of_ours() -> None:
    assert modules_of(COMMAND) == {"celery_partitions_config", "celery_partitions_config.command"}


@pytest.mark.parametrize("words", [("--version",), ("partitions", "--help"), ("partitions", "status", "--help")])
def test_the_commands_are_available_nevertheless(words: tuple[str, ...], tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "celery", *words], cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert words[0] == "--version" or ("dead-letters" in done.stdout) == (words[1] == "--help")
