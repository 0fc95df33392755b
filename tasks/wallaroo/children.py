"""Starts, watches, restarts and stops one process of a run."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from celery_partitions.testing.lifeline import lifeline

#: The time from SIGTERM to SIGKILL. Longer than a batch and its commit (PARTITIONS_BATCH_SECONDS), or a write to a slow receiver.
GRACE_SECONDS = 15.0
#: A process that exits sooner than this failed to start. Longer than a start takes on a slow, busy machine.
SHORT_SECONDS = 30.0
#: After this many failed starts in a row, the process is not started again.
SHORT_LIVES = 2


@dataclass(slots=True)
class Child:
    """A process under a lifeline: it ends when this process ends, even by SIGKILL."""

    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    #: Whether it may end by itself with exit code 0.
    may_end: bool = False
    short_lives: int = 0
    began: float = 0.0
    keeper: subprocess.Popen[bytes] | None = None
    _stack: ExitStack = field(default_factory=ExitStack)

    def start(self) -> None:
        self.began = time.monotonic()
        self.keeper = self._stack.enter_context(
            lifeline(self.command, environment=self.environment, grace_seconds=GRACE_SECONDS)
        )

    def code(self) -> int | None:
        """The exit code; above 128: 128 plus the signal. None while the process runs."""
        return None if self.keeper is None else self.keeper.poll()

    def revive(self, code: int) -> bool:
        """Restart the process after an unexpected end. False: it failed to start too often and stays stopped."""
        gave_up = code <= 128 and time.monotonic() - self.began < SHORT_SECONDS
        self.short_lives = self.short_lives + 1 if gave_up else 0
        self.end()
        if self.short_lives >= SHORT_LIVES:
            return False
        self.start()
        return True

    def ask_to_end(self) -> None:
        """Send SIGTERM."""
        if self.keeper is not None and self.keeper.stdin is not None:
            self.keeper.stdin.close()

    def end(self) -> None:
        """Send SIGTERM, then SIGKILL if needed, and wait for the end."""
        self._stack.close()
        self.keeper = None


def ended_by(code: int) -> str:
    """An exit code as text for people."""
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"
