"""Runs the Procfile's processes with honcho. A script: `python runner.py PROCFILE worker=3,web=1`.

Honcho starts each process in its own session, ends all when one ends, and passes SIGTERM on. This script also kills processes that
do not end, so that none is left running.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from honcho.environ import expand_processes, parse_procfile
from honcho.manager import Manager

#: The time from SIGTERM to SIGKILL. Longer than a worker needs to commit its batch (PARTITIONS_BATCH_SECONDS) and release its leases.
PATIENCE_SECONDS = 10


class ImpatientManager(Manager):  # type: ignore[misc]  # honcho has no types
    """Honcho's manager, which also kills processes that still run `PATIENCE_SECONDS` after SIGTERM."""

    def terminate(self) -> None:
        super().terminate()
        signal.signal(signal.SIGALRM, lambda number, frame: self.kill())
        signal.alarm(PATIENCE_SECONDS)


def run(procfile: Path, counts: dict[str, int]) -> int:
    """Run `counts[name]` processes of each named Procfile line until SIGTERM, or until one of them ends."""
    lines = {name: line for name, line in parse_procfile(procfile.read_text()).processes.items() if name in counts}
    if missing := counts.keys() - lines.keys():
        raise SystemExit(f"{procfile} has no line for {', '.join(sorted(missing))}")
    manager = ImpatientManager()
    for process in expand_processes(lines, concurrency=counts):
        # `exec` replaces the shell, so that honcho signals the command itself and sees its exit code.
        command = f"exec {process.cmd}"
        manager.add_process(process.name, command, env={**os.environ, **process.env}, cwd=procfile.parent)
    manager.loop()
    return int(manager.returncode or 0)


def _counts(text: str) -> dict[str, int]:
    """`worker=3,web=1` as a dict."""
    pairs = (part.split("=") for part in text.split(","))
    return {name: int(count) for name, count in pairs}


if __name__ == "__main__":
    sys.exit(run(Path(sys.argv[1]), _counts(sys.argv[2])))
