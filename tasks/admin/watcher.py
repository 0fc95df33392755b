"""A group watched by one process: many who look share one read, and the states are weighed now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from celery_partitions.admin.history import MIN_SECONDS, POINTS, History
from celery_partitions.admin.overview import Overview, Readable, read_overview
from celery_partitions.admin.overview_json import to_json

#: Weighing states costs the server a walk, and they grow slowly; while there are more than twice as many as were weighed, sooner.
WEIGH_SECONDS = 30.0


class Watcher:
    """Kept for as long as a process shows a group. Any thread may look; the read blocks, so never in an event loop."""

    def __init__(
        self, group: Readable, *, every_seconds: float = MIN_SECONDS, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.group, self.every_seconds, self.clock = group, every_seconds, clock
        self.history = History(least_seconds=max(every_seconds, MIN_SECONDS))
        self._lock = threading.Lock()
        self._last: tuple[float, Overview] | None = None
        #: Another one after each change that is known of: the one that was there when the last read began, and the last one.
        self._read_at_change = self._change = object()
        self._weighed_at: float | None = None
        #: The group's keys, when their states were weighed last.
        self._weighed_keys = 0

    def look(self) -> Overview:
        """The group as it stood at most `every_seconds` ago. Raises what `read_overview` does."""
        with self._lock:
            return self._look()

    def look_anew(self) -> None:
        """Something was changed: the next look reads. Never blocks, so that an event loop may call it: a slow read has the lock."""
        self._change = object()

    def to_json(self, *, points: int = POINTS) -> dict[str, Any]:
        """The group, and the last minutes, as JSON has them (`celery_partitions.admin.overview_json`)."""
        with self._lock:
            return to_json(self._look(), self.history, points=points)

    def _look(self) -> Overview:
        now = self.clock()
        change = self._change  # before the read: of one that is made meanwhile the read may not know
        known = self._last is not None and change is self._read_at_change
        if self._last is not None and known and now - self._last[0] < self.every_seconds:
            return self._last[1]
        weigh = self._weighed_at is None or now - self._weighed_at >= WEIGH_SECONDS or self._has_grown()
        overview = read_overview(self.group, state_bytes=weigh)
        if weigh:
            self._weighed_at, self._weighed_keys = now, _keys(overview)
        self.history.add(overview)
        self._last, self._read_at_change = (now, overview), change
        return overview

    def _has_grown(self) -> bool:
        return self._last is not None and _keys(self._last[1]) > 2 * self._weighed_keys


def _keys(overview: Overview) -> int:
    return sum(partition.status.keys for partition in overview.partitions)
