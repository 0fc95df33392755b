"""Watches a group for one process: all viewers share one read, and the states' size is measured now and then."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

from celery_partitions.admin.attention_facts import Attended, Ends
from celery_partitions.admin.attention_watch import AttentionWatch, attention_json
from celery_partitions.admin.history import GAP_SECONDS, KEPT_SECONDS, MIN_SECONDS, POINTS, History
from celery_partitions.admin.overview import Overview, read_overview
from celery_partitions.admin.overview_json import to_json
from celery_partitions.store.history import STEP_SECONDS, read_points

#: Measuring the states' size costs the server time, and they grow slowly. It is done sooner if the number of keys has doubled.
WEIGH_SECONDS = 30.0
#: Points of a history that cover the kept minutes.
SEEDED_POINTS = int(KEPT_SECONDS / STEP_SECONDS["fine"]) + 1


class Watcher:
    """Reads and remembers a group while a process shows it. Any thread may call it. `look` blocks: never call it in an event loop."""

    def __init__(
        self,
        group: Attended,
        *,
        ends: Callable[[], Ends] = Ends,
        every_seconds: float = MIN_SECONDS,
        gap_seconds: float = GAP_SECONDS,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.group, self.every_seconds, self.clock = group, every_seconds, clock
        self.history = History(least_seconds=max(every_seconds, MIN_SECONDS), gap_seconds=gap_seconds)
        self.attention = AttentionWatch(group, ends, clock=clock)
        self._lock = threading.Lock()
        self._last: tuple[float, Overview] | None = None
        #: Markers, replaced at each known change: the marker when the last read began, and the current one.
        self._read_at_change = self._change = object()
        self._weighed_at: float | None = None
        #: The number of keys when the states' size was last measured.
        self._weighed_keys = 0

    def look(self) -> Overview:
        """The group as it was at most `every_seconds` ago. Raises what `read_overview` raises."""
        with self._lock:
            return self._look()

    def invalidate(self) -> None:
        """Make the next `look` read Redis, after a change. Never blocks, so an event loop may call it, even while a slow read has the
        lock."""
        self._change = object()
        self.attention.invalidate()

    def to_json(self, *, points: int = POINTS) -> dict[str, Any]:
        """The group and its last minutes in the form of `celery_partitions.admin.overview_json`."""
        with self._lock:
            return to_json(self._look(), self.history, self.attention.words, points=points)

    def with_attention(self, *, points: int = POINTS) -> dict[str, Any]:
        """The same with `attention`: what needs an operator, worst first."""
        with self._lock:
            overview = self._look()
        found = attention_json(self.attention.look(overview))
        with self._lock:
            return {**to_json(overview, self.history, self.attention.words, points=points), "attention": found}

    def _look(self) -> Overview:
        now = self.clock()
        change = self._change  # taken before the read, which may miss a change made meanwhile
        known = self._last is not None and change is self._read_at_change
        if self._last is not None and known and now - self._last[0] < self.every_seconds:
            return self._last[1]
        weigh = self._weighed_at is None or now - self._weighed_at >= WEIGH_SECONDS or self._has_grown()
        overview = read_overview(self.group, state_bytes=weigh)
        if self.history.is_behind(overview.at):  # the first look, or the first after a while
            self._begin(overview)
        if weigh:
            self._weighed_at, self._weighed_keys = now, _keys(overview)
        self.history.add(overview)
        self._last, self._read_at_change = (now, overview), change
        return overview

    def _begin(self, overview: Overview) -> None:
        """Begin with what workers wrote, so that a chart is full at first sight."""
        names, partitions = self.group.names, [one.partition for one in overview.partitions]
        points = read_points(self.group.client, [names.history(one, "fine") for one in partitions], SEEDED_POINTS)
        forwarded = sum(one.forwarded for one in overview.partitions)
        self.history.begin(dict(zip(partitions, points, strict=True)), overview.at, forwarded=forwarded)

    def _has_grown(self) -> bool:
        return self._last is not None and _keys(self._last[1]) > 2 * self._weighed_keys


def _keys(overview: Overview) -> int:
    return sum(partition.status.keys for partition in overview.partitions)
