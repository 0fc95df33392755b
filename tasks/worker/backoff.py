"""How long to wait before a server that does not answer, or refuses, is tried again."""

from __future__ import annotations

from collections.abc import Callable

#: The first wait: about as long as a cut connection or a failover by hand lasts, and nothing for a server that is busy.
FIRST_SECONDS = 0.1
#: No wait is longer: so soon after a server is back everything goes on. A worker that waits costs it a connection each time.
LONGEST_SECONDS = 2.0
#: Each wait is shorter by up to this part, at random: workers that lost the server in one moment do not come back in one.
JITTER = 0.5


class Backoff:
    """Waits that double from `FIRST_SECONDS` to `longest`, until something worked."""

    def __init__(self, random: Callable[[], float], longest: float = LONGEST_SECONDS) -> None:
        self._random = random
        self._longest = longest
        self._next = FIRST_SECONDS

    def next_seconds(self) -> float:
        """How long to wait now."""
        seconds = min(self._next, self._longest)
        self._next = min(self._next * 2, self._longest)
        return seconds * (1 - JITTER * self._random())

    def worked(self) -> None:
        """The next wait is a first one again."""
        self._next = FIRST_SECONDS
