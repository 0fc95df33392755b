"""Which partition a worker works on next.

Each partition gets an equal share of the loop's time, as in start-time fair queueing: the next turn goes to the partition that has
used the least. A partition that was idle goes first when a message comes, but saves no time up: it can't keep the others waiting
for longer than they would keep it waiting.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery_partitions.worker.lane import Lane

#: A turn counts as at least this long: about what its commit costs the server.
LEAST_TURN_SECONDS = 0.0005


class Turns:
    """Made once a loop, used by its thread."""

    def __init__(self) -> None:
        #: What the partition that had the last turn had used when it began.
        self._now = 0.0

    def next(self, ready: Iterable[Lane]) -> Lane | None:
        """The partition whose turn it is; None when none is ready."""
        lane = min(ready, key=_used_seconds, default=None)
        if lane is not None:
            self._now = lane.used_seconds = max(self._now, lane.used_seconds)
        return lane

    def charge(self, lane: Lane, seconds: float) -> None:
        """A turn of the partition took this long."""
        lane.used_seconds += max(seconds, LEAST_TURN_SECONDS)


def _used_seconds(lane: Lane) -> float:
    return lane.used_seconds
