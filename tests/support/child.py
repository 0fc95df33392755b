"""A child process with its output in a file. A test can signal, stop and kill it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Self

from tests.support.python_process import ForkedProcess
from tests.support.wait import wait_until

#: How much of a log an error shows.
TAIL_LINES = 60


class ChildProcess:
    """A process in its own session. `name`: for errors. As a context manager it is killed at the end, whatever happened."""

    def __init__(self, name: str, process: ForkedProcess | subprocess.Popen[bytes], log_path: Path) -> None:
        self.name, self.process, self.log_path = name, process, log_path

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    @property
    def pid(self) -> int:
        """The id of the process and of its group."""
        return self.process.pid

    @property
    def running(self) -> bool:
        """Whether the process exists (stopped or not)."""
        return self.process.poll() is None

    def terminate(self) -> None:
        """SIGTERM: Celery's warm shutdown."""
        self.process.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        """Send SIGKILL to the whole group, stopped or not, and wait. Does nothing if it has already ended."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self.process.wait()

    def wait(self, timeout: float = 60.0) -> int:
        """Wait for the exit code (negative: the signal). Raises `AssertionError` if it still runs after `timeout` seconds."""
        try:
            return self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} still runs after {timeout} s\n{self.log_tail()}") from None

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Send a signal that ends the process. Returns the exit code."""
        self.process.send_signal(number)
        return self.wait()

    def log(self) -> str:
        """What the process has printed so far."""
        return self.log_path.read_text(errors="replace")

    def log_tail(self) -> str:
        """The end of `log()`."""
        return "\n".join(self.log().splitlines()[-TAIL_LINES:])

    def wait_for(self, text: str, timeout: float = 120.0) -> str:
        """Wait until the process has printed `text`. Returns the line that contains it. Raises `AssertionError` if it never does."""

        def line() -> str | None:
            return next((line for line in self.log().splitlines() if text in line), None)

        wait_until(lambda: line() or not self.running, timeout, message=f"{self.name} does not print {text!r}")
        found = line()
        assert found is not None, f"{self.name} ended with {self.process.poll()} and never printed {text!r}:\n{self.log()}"
        return found
