"""Runs the Procfile's processes as children of the demo, until a `with` block ends, and reads what their partitions do."""

from __future__ import annotations

import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import celery_partitions
from celery_partitions.admin.status import PartitionStatus
from celery_partitions.runtime.registry import current_installation
from celery_partitions.testing.lifeline import lifeline
from celery_partitions_config.resolution import from_environment

#: The project's folder, with the Procfile and the `config/flowerconfig.py` that it names.
ROOT = Path(celery_partitions.__file__).parent.parent
PROCFILE = ROOT / "Procfile"
#: Longer than the runner waits before it kills a process (its PATIENCE_SECONDS), plus the time to see it end.
GRACE_SECONDS = 20.0


class DemoError(RuntimeError):
    """The demo cannot continue. The text says why, and where to look."""


@dataclass(frozen=True)
class Processes:
    """Running processes, which `wait_until` watches while it waits."""

    keeper: subprocess.Popen[bytes]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Wait until `condition()` is true. Raises `DemoError` after `seconds`, or when the processes end."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.keeper.poll() is not None:
                raise DemoError(f"the processes ended before {what}")
            if time.monotonic() > deadline:
                raise DemoError(f"timed out after {seconds:.0f} s, waiting until {what}")
            time.sleep(0.01)


@contextmanager
def running(
    environment: Mapping[str, str],
    counts: Mapping[str, int],
    *,
    app: str | None = None,
    output: IO[bytes] | None = None,
) -> Iterator[Processes]:
    """Run `counts` of the Procfile's processes (`{"worker": 3}`), with `app` as their Celery app, until the block ends.

    `output`: receives what they print; None: the screen. All processes have ended when the block has ended.
    """
    if not PROCFILE.exists():
        raise DemoError(f"{PROCFILE} does not exist: run the demo in a clone of the project (pip install -e .)")
    script = Path(__file__).with_name("runner.py")
    wanted = ",".join(f"{name}={count}" for name, count in counts.items())
    with lifeline(
        [sys.executable, "-P", str(script), str(PROCFILE), wanted],
        environment={**environment, "APP": app} if app else environment,
        grace_seconds=GRACE_SECONDS,
        folder=ROOT,
        output=output,
    ) as keeper:
        yield Processes(keeper)


def flower_answers(address: str) -> bool:
    """Whether Flower at `address` (http://host:port) serves its health check."""
    try:
        with urllib.request.urlopen(f"{address}/healthcheck", timeout=2.0) as reply:  # noqa: S310  our own http URL
            return bool(reply.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def read_partitions() -> list[PartitionStatus]:
    """All partitions in numeric order, without the ingress."""
    group = current_installation().group
    return [partition for partition in group.status() if partition.queue != group.settings.group]


def wait_for_workers(processes: Processes, workers: int, seconds: float) -> list[PartitionStatus]:
    """Wait until each partition has an owner, and each worker a partition (as far as there are enough). Returns the partitions."""
    shares = min(workers, from_environment().partitions)
    seen: list[PartitionStatus] = []

    def shared_out() -> bool:
        seen[:] = read_partitions()
        owners = {partition.owner for partition in seen}
        return None not in owners and len(owners) == shares

    processes.wait_until(shared_out, f"{shares} workers own all partitions", seconds)
    return seen
