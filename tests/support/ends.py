"""`celery -A APP partitions source NAME` and `… sink NAME` as child processes."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tests.support.applications import ends
from tests.support.child import ChildProcess
from tests.support.python_process import start_python
from tests.support.worker import ROOT


class EndProcess(ChildProcess):
    """The process of one source or sink of `tests.support.applications.ends`. As a context manager it is killed at the end."""

    def __init__(self, kind: str, name: str, directory: Path, env: Mapping[str, str], *arguments: str) -> None:
        number = len(list(directory.glob(f"{kind}-*.log")))
        log_path, self._out = directory / f"{kind}-{number}.log", directory / f"{kind}-{number}.out"
        with log_path.open("wb") as log, self._out.open("wb") as out:
            process = start_python(
                *("celery", "-A", ends.__name__, "partitions", kind, name, *arguments),
                directory=directory,
                environment={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdout=out,
                stderr=log,
            )
        super().__init__(f"{kind} {name}", process, log_path)

    def out(self) -> str:
        """What it wrote to standard output."""
        return self._out.read_text(errors="replace")

    def log(self) -> str:
        """What it wrote to standard output, then what it logged."""
        return self.out() + super().log()
