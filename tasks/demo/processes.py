"""The Procfile's processes as children of the demo: so many of each, for as long as a block."""

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
from celery_partitions.testing.lifeline import lifeline

#: The folder of the project: of the Procfile, and of `config/flowerconfig.py` as the Procfile spells it.
ROOT = Path(celery_partitions.__file__).parent.parent
PROCFILE = ROOT / "Procfile"
#: What the runner needs to kill what does not end by itself (its PATIENCE_SECONDS), and to see it gone.
GRACE_SECONDS = 20.0


class DemoError(RuntimeError):
    """The demo can't go on; the message says why, and where to look."""


@dataclass(frozen=True)
class Processes:
    """Processes that run: what `wait_until` watches while it waits."""

    keeper: subprocess.Popen[bytes]

    def wait_until(self, condition: Callable[[], bool], what: str, seconds: float) -> None:
        """Return once `condition()` holds; `DemoError` after `seconds`, or as soon as the processes have ended."""
        deadline = time.monotonic() + seconds
        while not condition():
            if self.keeper.poll() is not None:
                raise DemoError(f"the processes ended before {what}")
            if time.monotonic() > deadline:
                raise DemoError(f"after {seconds:.0f} s, still not: {what}")
            time.sleep(0.01)


@contextmanager
def running(
    environment: Mapping[str, str],
    counts: Mapping[str, int],
    *,
    app: str | None = None,
    output: IO[bytes] | None = None,
) -> Iterator[Processes]:
    """Run `counts` of the Procfile's processes (`{"worker": 3}`), with `app` as their Celery app, for the block.

    `output` takes what they print (None: the screen). All have ended when the block is left.
    """
    if not PROCFILE.exists():
        raise DemoError(f"there is no {PROCFILE}: run the demo in a clone of the project (pip install -e .)")
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
