"""Chooses the partition that a worker processes next.

Each partition gets an equal share of the loop's time, as in start-time fair queueing: the next turn goes to the partition that has
used the least. A partition that was idle goes first when a message arrives, but saves up no time: it cannot keep the others
waiting for longer than they would keep it waiting.
"""

from __future__ import annotations

from collections.abc import Iterable

from celery_partitions.worker.owned import OwnedPartition

#: The least time that a turn is charged: about what its commit costs the server.
MIN_TURN_SECONDS = 0.0005


class Turns:
    """Made once per loop and used only by its thread."""

    def __init__(self) -> None:
        #: The time that the partition of the last turn had used when that turn began.
        self._now = 0.0

    def next(self, ready: Iterable[OwnedPartition]) -> OwnedPartition | None:
        """The partition whose turn it is; None if none is ready."""
        owned = min(ready, key=_used_seconds, default=None)
        if owned is not None:
            self._now = owned.used_seconds = max(self._now, owned.used_seconds)
        return owned

    def charge(self, owned: OwnedPartition, seconds: float) -> float:
        """Charge the partition for a turn of this length. Returns the seconds charged."""
        charged = max(seconds, MIN_TURN_SECONDS)
        owned.used_seconds += charged
        return charged

    def go_behind(self, owned: OwnedPartition, all_of_them: Iterable[OwnedPartition]) -> None:
        """Let each of the others have a turn before this partition, if they are ready."""
        owned.used_seconds = max(map(_used_seconds, all_of_them), default=owned.used_seconds)


def _used_seconds(owned: OwnedPartition) -> float:
    return owned.used_seconds
