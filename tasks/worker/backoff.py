"""How long to wait before the next try when a server does not answer or refuses."""

from __future__ import annotations

from collections.abc import Callable

#: The first wait: about as long as a cut connection or a manual failover lasts, and negligible for a busy server.
FIRST_SECONDS = 0.1
#: The longest wait, and so the longest delay after the server is back. Each try costs the server a connection.
LONGEST_SECONDS = 2.0
#: Each wait is shortened at random by up to this fraction, so that workers do not all reconnect at the same moment.
JITTER = 0.5


class Backoff:
    """Waits that double from `FIRST_SECONDS` to `longest` until `worked` is called."""

    def __init__(self, random: Callable[[], float], longest: float = LONGEST_SECONDS) -> None:
        self._random = random
        self._longest = longest
        self._next = FIRST_SECONDS

    def next_seconds(self) -> float:
        """The seconds to wait now."""
        seconds = min(self._next, self._longest)
        self._next = min(self._next * 2, self._longest)
        return seconds * (1 - JITTER * self._random())

    def worked(self) -> None:
        """Start with the first wait again next time."""
        self._next = FIRST_SECONDS
