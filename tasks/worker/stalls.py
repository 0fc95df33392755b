"""Detects that the whole process stalled: code held the interpreter lock, or the process was stopped."""

from __future__ import annotations

import threading
import time
from collections import deque

#: How often the thread reads the clock. Much shorter than the shortest sensible lease.
TICK_SECONDS = 0.25


class StallDetector(threading.Thread):
    """A thread that reads the clock. While it cannot run, no other thread of the process can either, nor can the lease keeper."""

    def __init__(self) -> None:
        super().__init__(name="stall-detector", daemon=True)
        self._ended = threading.Event()
        self._last = time.monotonic()
        #: The longest time without reading the clock since `reset`.
        self._longest = 0.0
        #: When the last stalls ended, and how long they were.
        self._stalls: deque[tuple[float, float]] = deque(maxlen=20)

    def run(self) -> None:
        while not self._ended.wait(TICK_SECONDS):
            self._look()

    def _look(self) -> None:
        now = time.monotonic()
        seconds = now - self._last
        self._longest = max(self._longest, seconds)
        self._last = now
        if seconds > 2 * TICK_SECONDS:
            self._stalls.append((now, seconds))

    def reset(self) -> None:
        """Forget earlier stalls."""
        self._look()
        self._longest = 0.0

    def longest_seconds(self) -> float:
        """The longest stall since `reset`; 0 while the thread does not run."""
        if not self.is_alive():
            return 0.0
        self._look()
        return self._longest

    def stalled_since(self, moment: float, seconds: float) -> bool:
        """Whether a stall of more than these seconds ended after a moment of `time.monotonic`. At least two ticks are seen."""
        if self.is_alive():
            self._look()
        return any(ended > moment and length > seconds for ended, length in list(self._stalls))

    def end(self) -> None:
        """End the thread."""
        self._ended.set()
