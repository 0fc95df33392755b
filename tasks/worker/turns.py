"""Which partition a worker works on next.

Each partition gets an equal share of the loop's time, as in start-time fair queueing: the next turn goes to the partition that has
used the least. A partition that was idle goes first when a message comes, but saves no time up: it can't keep the others waiting
for longer than they would keep it waiting.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery_partitions.worker.owned import OwnedPartition

#: A turn counts as at least this long: about what its commit costs the server.
MIN_TURN_SECONDS = 0.0005


class Turns:
    """Made once a loop, used by its thread."""

    def __init__(self) -> None:
        #: What the partition that had the last turn had used when it began.
        self._now = 0.0

    def next(self, ready: Iterable[OwnedPartition]) -> OwnedPartition | None:
        """The partition whose turn it is; None when none is ready."""
        owned = min(ready, key=_used_seconds, default=None)
        if owned is not None:
            self._now = owned.used_seconds = max(self._now, owned.used_seconds)
        return owned

    def charge(self, owned: OwnedPartition, seconds: float) -> None:
        """A turn of the partition took this long."""
        owned.used_seconds += max(seconds, MIN_TURN_SECONDS)


def _used_seconds(owned: OwnedPartition) -> float:
    return owned.used_seconds
