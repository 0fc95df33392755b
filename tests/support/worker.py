"""A Celery worker as a child process. A test can signal, stop and kill it."""

from __future__ import annotations

import itertools
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.child import ChildProcess
from tests.support.python_process import start_python
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]

#: Longer than importing Celery on a busy machine with several workers starting at once.
READY_SECONDS = 60.0

_numbers = itertools.count(1)


class WorkerProcess(ChildProcess):
    """`celery -A module worker -l INFO ARGUMENTS` in its own process group.

    It starts when the object is created. `env` is added to this process's environment, `python_path` to the
    folders it imports from (the repository is always among them). The output goes to a file in `directory`,
    which is also the working directory. As a context manager it is killed at the end, whatever happened.
    """

    def __init__(
        self,
        module: str,
        *arguments: str,
        directory: Path,
        env: Mapping[str, str] | None = None,
        python_path: Sequence[Path] = (),
    ) -> None:
        log_path = directory / f"worker-{next(_numbers)}.log"
        folders = [str(path) for path in (ROOT, *python_path)]
        words = ["-A", module, "worker", "-l", "INFO", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **(env or {})}
        with log_path.open("wb") as log:
            process = start_python("celery", *words, directory=directory, environment=environment, stdout=log, stderr=log)
        super().__init__("the worker", process, log_path)

    def wait_ready(self, timeout: float = READY_SECONDS) -> Self:
        """Return once Celery has logged "ready."; raises `AssertionError` with the log's tail if not."""
        try:
            wait_until(
                lambda: self.is_ready() or not self.running, timeout, message="the worker is not ready"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None
        if not self.is_ready():
            raise AssertionError(f"the worker exited with {self.process.poll()}\n{self.log_tail()}")
        return self

    def is_ready(self) -> bool:
        """Whether Celery has ever logged "ready."."""
        return any(line.rstrip().rstrip('"}').endswith(" ready.") for line in self.log().splitlines())

    def interrupt(self) -> None:
        """SIGINT: as Ctrl-C; a second one is Celery's cold shutdown."""
        self.process.send_signal(signal.SIGINT)

    def quit(self) -> None:
        """SIGQUIT: Celery's cold shutdown."""
        self.process.send_signal(signal.SIGQUIT)

    def stop_process(self) -> None:
        """SIGSTOP: the process is suspended, and its connections stay open."""
        self.process.send_signal(signal.SIGSTOP)

    def continue_process(self) -> None:
        """SIGCONT: the process continues."""
        self.process.send_signal(signal.SIGCONT)
