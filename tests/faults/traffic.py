"""Sends numbered messages to many keys. At the end it checks: no loss, no duplicate, no reordering, and state equals fold."""

from __future__ import annotations

from itertools import count, cycle, islice

from tests.fundamentals.application import Nap, sleep
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.history import by_key, check_history, check_history_so_far
from tests.support.wait import wait_until

#: Several keys per partition, and enough messages per key that a wrong order shows.
KEYS = [f"key-{number}" for number in range(16)]


class Traffic:
    """Sends to the computation `sleep`, which takes a little time for each message."""

    def __init__(self, live: LiveGroup, seconds: float = 0.001) -> None:
        self.live = live
        self.sent: list[tuple[str, int]] = []
        self._next = zip(cycle(KEYS), count())
        self._seconds = seconds

    def send(self, messages: int) -> None:
        """Send this many more messages, to each key in turn."""
        fresh = list(islice(self._next, messages))
        self.live.send(sleep, (Nap(key, number, self._seconds) for key, number in fresh))
        self.sent += fresh

    def wait_processed(self, messages: int) -> None:
        """Wait until this many messages are committed in all."""
        wait_until(
            lambda: self.live.processed() >= messages, PATIENCE_SECONDS, every=0.002, message=f"fewer than {messages}"
        )

    def check_so_far(self) -> None:
        """Check that what is committed so far is the beginning of what was sent."""
        check_history_so_far(by_key(self.sent), self.live.numbers(sleep))

    def check(self) -> None:
        """Check that every message was applied once, in order, and counted once, and that none became a dead letter."""
        self.live.wait_drained()
        check_history(by_key(self.sent), self.live.numbers(sleep))
        assert self.live.processed() == len(self.sent)
        assert self.live.dead_letters() == []
