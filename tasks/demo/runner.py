"""Run the Procfile's processes with honcho. A script: `python runner.py PROCFILE worker=3,web=1`.

Honcho starts each process in a session of its own, ends all when one ends, and passes SIGTERM on. What it does not do
is to lose patience when none of them ends; that is added here, so that nothing is left running.
"""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

from honcho.environ import expand_processes, parse_procfile
from honcho.manager import Manager

#: From SIGTERM to SIGKILL: longer than a worker needs to commit its batch (PARTITIONS_BATCH_SECONDS) and let go of its leases.
PATIENCE_SECONDS = 10


class ImpatientManager(Manager):  # type: ignore[misc]  # honcho has no types
    """Honcho's manager, which kills what is still there `PATIENCE_SECONDS` after it was told to end."""

    def terminate(self) -> None:
        super().terminate()
        signal.signal(signal.SIGALRM, lambda number, frame: self.kill())
        signal.alarm(PATIENCE_SECONDS)


def run(procfile: Path, counts: dict[str, int]) -> int:
    """Run `counts[name]` processes of each named line until SIGTERM, or until one of them ends."""
    lines = {name: line for name, line in parse_procfile(procfile.read_text()).processes.items() if name in counts}
    if missing := counts.keys() - lines.keys():
        raise SystemExit(f"{procfile} has no line for {', '.join(sorted(missing))}")
    manager = ImpatientManager()
    for process in expand_processes(lines, concurrency=counts):
        # `exec`: the command takes its shell's place, so that its signals and exit code are what honcho sees.
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
