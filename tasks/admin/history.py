"""The last five minutes of a group: from overviews, how many messages came and were done with each second."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from celery_partitions.admin.overview import Overview
from celery_partitions.store.telemetry import LATENCY_SECONDS, Histogram, merged

#: How far back the sparklines go.
KEPT_SECONDS = 300.0
#: Overviews that come faster replace the youngest: memory is bounded, and no rate is of a moment too short to mean anything.
MIN_SECONDS = 2.0
#: Points of a sparkline unless told otherwise: one for five seconds.
POINTS = 60
#: Latencies are of the kept minutes, which begin anew so often.
LATENCY_STEP_SECONDS = 30.0
#: Numbers of points that are asked for by turns in one process are few.
MAX_DRAWN = 8
#: In place of a partition: the whole group.
TOTAL = None


class Flow(NamedTuple):
    """What flowed until a moment, since the point before; in JSON `[t, in, done, waiting]`. To a tenth."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    #: Messages a second that came. A message that an operator, a retry or a timer puts into the queue comes too.
    in_per_second: float
    #: Messages a second that left for good: applied, forwarded, expired, revoked, duplicates, dead.
    done_per_second: float
    #: Messages in the queue at that moment.
    waiting: int


class _Counts(NamedTuple):
    #: Messages that came, and that left, each up to a constant.
    came: int
    left: int
    waiting: int


class _Point(NamedTuple):
    at: float
    counts: dict[str | None, _Counts]


@dataclass(frozen=True, slots=True)
class _Drawn:
    #: The youngest point then.
    last: _Point | None
    #: By the moments of two points that follow each other, oldest first.
    flows: dict[tuple[float, float], dict[str | None, Flow]]


class History:
    """Fed with overviews, in order; the moment of each is its own, by the server's clock. One thread at a time."""

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS, least_seconds: float = MIN_SECONDS) -> None:
        self.kept_seconds, self.least_seconds = kept_seconds, least_seconds
        self._points: deque[_Point] = deque()
        self._bytes: dict[str, int] = {}
        #: By how many points: what was drawn last.
        self._drawn: dict[int, _Drawn] = {}
        #: Cumulative latencies at moments of the kept minutes, oldest first; and the youngest.
        self._latencies: deque[tuple[float, dict[str | None, Histogram]]] = deque()
        self._latency: dict[str | None, Histogram] = {}

    def add(self, overview: Overview) -> None:
        """Take the youngest overview in. When the server's clock was set back, what was before is forgotten."""
        points = self._points
        if points and overview.at < points[-1].at:
            points.clear()
            self._drawn.clear()
            self._latencies.clear()
        if len(points) > 1 and points[-1].at - points[-2].at < self.least_seconds:
            points.pop()
        points.append(_Point(overview.at, _counted(overview)))
        # One point is older: the rate of the oldest that is shown needs it.
        while len(points) > 2 and points[1].at < overview.at - self.kept_seconds:
            points.popleft()
        self._measure(overview)
        for partition in overview.partitions:
            if partition.state_bytes is not None:
                self._bytes[partition.partition] = partition.state_bytes

    def _measure(self, overview: Overview) -> None:
        self._latency = {partition.partition: partition.measurements.latency for partition in overview.partitions}
        self._latency[TOTAL] = merged(partition.measurements for partition in overview.partitions).latency
        known = self._latencies
        if not known or overview.at - known[-1][0] >= LATENCY_STEP_SECONDS:
            known.append((overview.at, self._latency))
        while len(known) > 1 and known[0][0] < overview.at - self.kept_seconds:
            known.popleft()

    def latency(self, share: float, partition: str | None = TOTAL) -> float | None:
        """Seconds from a message's sending to its commit, which `share` (0 to 1) of the messages of the kept minutes took at most.

        None when there were none. At the first overview those since the group began count.
        """
        if partition not in self._latency:
            return None
        found, (_, before) = self._latency[partition], self._latencies[0]
        if before is not self._latency and partition in before:
            found = found.since(before[partition])
        return found.quantile(LATENCY_SECONDS, share)

    def now(self, partition: str | None = TOTAL) -> Flow | None:
        """What flows, over at least `least_seconds` when there is as much; None before the second overview."""
        if len(self._points) < 2:
            return None
        last = self._points[-1]
        before = next(
            (point for point in reversed(self._points) if last.at - point.at >= self.least_seconds), self._points[0]
        )
        return _flow(partition, before, last)

    def series(self, partition: str | None = TOTAL, points: int = POINTS) -> list[Flow]:
        """The kept minutes, oldest first, in at most `points` points (and the one that is not over).

        A point once over stays as it is, so that a line drawn of them does not tremble.
        """
        return [flows[partition] for flows in self._flows(points) if partition in flows]

    def _flows(self, points: int) -> Iterable[dict[str | None, Flow]]:
        """From point to point, oldest first; those between points that are over are reckoned once."""
        drawn = self._drawn.get(points)
        last = self._points[-1] if self._points else None
        if drawn is None or drawn.last is not last:
            known = {} if drawn is None else drawn.flows
            spans = list(pairwise(self._thinned(points)))
            flows = {
                (before.at, after.at): known.get((before.at, after.at)) or _flows_between(before, after)
                for before, after in spans
            }
            if len(self._drawn) > MAX_DRAWN:
                self._drawn.clear()
            drawn = self._drawn[points] = _Drawn(last, flows)
        return drawn.flows.values()

    def state_bytes(self, partition: str | None = TOTAL) -> int | None:
        """The bytes of the states as they were last weighed; None when they never were."""
        if partition is TOTAL:
            return sum(self._bytes.values()) if self._bytes else None
        return self._bytes.get(partition)

    def _thinned(self, points: int) -> Iterator[_Point]:
        """The youngest point of each of the equal spans that the kept time is cut into."""
        span = self.kept_seconds / max(1, points)
        held: _Point | None = None
        for point in self._points:
            if held is not None and point.at // span != held.at // span:
                yield held
            held = point
        if held is not None:
            yield held


def _counted(overview: Overview) -> dict[str | None, _Counts]:
    counts: dict[str | None, _Counts] = {}
    came = left = waiting = 0
    for partition in overview.partitions:
        own = _Counts(partition.present + partition.left, partition.left, partition.status.length)
        counts[partition.partition] = own
        # A message that is forwarded comes and leaves twice, and is one.
        came += own.came - partition.forwarded
        left += own.left - partition.forwarded
        waiting += own.waiting
    counts[TOTAL] = _Counts(came, left, waiting)
    return counts


def _flows_between(before: _Point, after: _Point) -> dict[str | None, Flow]:
    flows = ((partition, _flow(partition, before, after)) for partition in after.counts)
    return {partition: flow for partition, flow in flows if flow is not None}


def _flow(partition: str | None, before: _Point, after: _Point) -> Flow | None:
    """None of a partition that was not there, or of two points at one moment. Counters that fell were deleted: nothing flowed."""
    seconds = after.at - before.at
    if seconds <= 0 or partition not in before.counts or partition not in after.counts:
        return None
    old, new = before.counts[partition], after.counts[partition]
    came, left = max(0, new.came - old.came), max(0, new.left - old.left)
    return Flow(round(after.at, 1), round(came / seconds, 1), round(left / seconds, 1), new.waiting)
