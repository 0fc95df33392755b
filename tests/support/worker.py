"""A Celery worker as a child process. A test can signal, stop and kill it."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Self

from tests.support.python_process import start_python
from tests.support.wait import wait_until

ROOT = Path(__file__).resolve().parents[2]

#: Longer than importing Celery on a busy machine with several workers starting at once.
READY_SECONDS = 60.0

#: How much of a log an error shows.
TAIL_LINES = 60

_numbers = itertools.count(1)


class WorkerProcess:
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
        self.log_path = directory / f"worker-{next(_numbers)}.log"
        folders = [str(path) for path in (ROOT, *python_path)]
        words = ["-A", module, "worker", "-l", "INFO", *arguments]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(folders), **(env or {})}
        with self.log_path.open("wb") as log:
            self._process = start_python("celery", *words, directory=directory, environment=environment, stdout=log, stderr=log)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists (stopped or not)."""
        return self._process.poll() is None

    def wait_ready(self, timeout: float = READY_SECONDS) -> Self:
        """Return once Celery has logged "ready."; raises `AssertionError` with the log's tail if not."""
        try:
            wait_until(
                lambda: self.is_ready() or not self.running, timeout, message="the worker is not ready"
            )
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log_tail()}") from None
        if not self.is_ready():
            raise AssertionError(f"the worker exited with {self._process.poll()}\n{self.log_tail()}")
        return self

    def is_ready(self) -> bool:
        """Whether Celery has ever logged "ready."."""
        return any(line.rstrip().rstrip('"}').endswith(" ready.") for line in self.log().splitlines())

    def terminate(self) -> None:
        """SIGTERM: Celery's warm shutdown."""
        self._process.send_signal(signal.SIGTERM)

    def interrupt(self) -> None:
        """SIGINT: as Ctrl-C; a second one is Celery's cold shutdown."""
        self._process.send_signal(signal.SIGINT)

    def quit(self) -> None:
        """SIGQUIT: Celery's cold shutdown."""
        self._process.send_signal(signal.SIGQUIT)

    def stop_process(self) -> None:
        """SIGSTOP: the process is suspended, and its connections stay open."""
        self._process.send_signal(signal.SIGSTOP)

    def continue_process(self) -> None:
        """SIGCONT: the process continues."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Send SIGKILL to the whole group, stopped or not, and wait. Does nothing if it has already ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the exit code (negative: the signal). Raises `AssertionError` if it still runs after `timeout` seconds."""
        try:
            return self._process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"the worker still runs after {timeout} s\n{self.log_tail()}") from None

    def log(self) -> str:
        """What the worker has printed so far."""
        return self.log_path.read_text(errors="replace")

    def log_tail(self) -> str:
        """The end of `log()`."""
        return "\n".join(self.log().splitlines()[-TAIL_LINES:])
