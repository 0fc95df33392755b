"""One process of a run: started, watched, started again, ended."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from celery_partitions.testing.lifeline import lifeline

#: From SIGTERM to SIGKILL: longer than a batch and its commit (PARTITIONS_BATCH_SECONDS), and than a write that a slow receiver holds up.
GRACE_SECONDS = 15.0
#: Who lives shorter than this has not begun to work.
SHORT_SECONDS = 5.0
#: So many short lives in a row, and it is not started again.
SHORT_LIVES = 2


@dataclass(slots=True)
class Child:
    """A process under a lifeline: it ends with this one, however this one ends."""

    title: str
    command: Sequence[str]
    environment: Mapping[str, str]
    #: It may end by itself, with 0.
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
        """The exit code, once it has ended; above 128: by a signal."""
        return None if self.keeper is None else self.keeper.poll()

    def revive(self, code: int) -> bool:
        """It has ended, and should not have: start it again. False: it gave up at once again and again, and is left."""
        gave_up = code <= 128 and time.monotonic() - self.began < SHORT_SECONDS
        self.short_lives = self.short_lives + 1 if gave_up else 0
        self.end()
        if self.short_lives >= SHORT_LIVES:
            return False
        self.start()
        return True

    def ask_to_end(self) -> None:
        """SIGTERM."""
        if self.keeper is not None and self.keeper.stdin is not None:
            self.keeper.stdin.close()

    def end(self) -> None:
        """SIGTERM, SIGKILL if that is not enough, and wait."""
        self._stack.close()
        self.keeper = None


def ended_by(code: int) -> str:
    """An exit code, for people."""
    return f"signal {code - 128}" if code > 128 else f"exit code {code}"
