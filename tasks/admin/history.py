"""The last five minutes of a group, computed from overviews: messages in and done per second, latencies.

The first overview is preceded by what workers wrote into their histories, so that a chart is full at first sight.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from celery_partitions.admin.overview import Overview
from celery_partitions.store.history import STEP_SECONDS, Point
from celery_partitions.store.telemetry import LATENCY_SECONDS, Histogram, merged

#: How far back the sparklines go.
KEPT_SECONDS = 300.0
#: An overview that comes sooner replaces the last one. This bounds memory, and rates are not measured over too short a time.
MIN_SECONDS = 2.0
#: Default number of points of a sparkline: one per five seconds.
POINTS = 60
#: Latencies cover the kept minutes. The start of that window moves in steps of this length.
LATENCY_STEP_SECONDS = 30.0
#: Series are cached for at most this many different numbers of points; one process asks for few.
MAX_DRAWN = 8
#: After a longer time without an overview, earlier ones say nothing about now.
GAP_SECONDS = 30.0
#: Used in place of a partition for the whole group.
TOTAL = None


class Flow(NamedTuple):
    """The flow between the previous point and this one; in JSON `[t, in, done, waiting]`. Rounded to a tenth."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    #: Messages per second that arrived, including those that an operator, a retry or a timer put into the queue.
    in_per_second: float
    #: Messages per second that left for good: applied, forwarded, expired, revoked, duplicates, dead letters.
    done_per_second: float
    #: Messages in the queue at that moment.
    waiting: int


class _Counts(NamedTuple):
    #: Messages that arrived and that left, each up to a constant.
    came: int
    left: int
    waiting: int


class _Point(NamedTuple):
    at: float
    counts: dict[str | None, _Counts]


@dataclass(frozen=True, slots=True)
class _Drawn:
    #: The newest point when this was computed.
    last: _Point | None
    #: Flows by the times of two successive points, oldest first.
    flows: dict[tuple[float, float], dict[str | None, Flow]]


class History:
    """Takes overviews in order; each has its own time, by the server's clock. Not thread-safe."""

    def __init__(
        self, *, kept_seconds: float = KEPT_SECONDS, least_seconds: float = MIN_SECONDS, gap_seconds: float = GAP_SECONDS
    ) -> None:
        self.kept_seconds, self.least_seconds, self.gap_seconds = kept_seconds, least_seconds, gap_seconds
        self._points: deque[_Point] = deque()
        self._bytes: dict[str, int] = {}
        #: The last computed series, by number of points.
        self._drawn: dict[int, _Drawn] = {}
        #: Cumulative latencies at several times of the kept minutes, oldest first; then the newest ones.
        self._latencies: deque[tuple[float, dict[str | None, Histogram]]] = deque()
        self._latency: dict[str | None, Histogram] = {}

    def is_behind(self, now: float) -> bool:
        """Whether what is known says nothing about now: there is nothing, a gap, or the server's clock was set back."""
        return not self._points or not 0 <= now - self._points[-1].at <= self.gap_seconds

    def begin(self, histories: Mapping[str, Sequence[Point]], now: float, *, forwarded: int = 0) -> None:
        """Forget everything, and begin with the points that workers wrote about each partition, oldest first. `forwarded`: messages that
        were forwarded since the group began, of which each counts in two partitions."""
        self._points.clear()
        self._drawn.clear()
        self._latencies.clear()
        self._latency = {}
        times = sorted({point.at for points in histories.values() for point in points if now - self.kept_seconds <= point.at < now})
        for at in _apart(times):
            counts: dict[str | None, _Counts] = {name: _as_counts(points, at) for name, points in histories.items() if points}
            came, left, waiting = (sum(column) for column in zip(*counts.values(), strict=True))
            counts[TOTAL] = _Counts(came - forwarded, left - forwarded, waiting)
            self._points.append(_Point(at, counts))

    def add(self, overview: Overview) -> None:
        """Add the newest overview. After a gap, or if the server's clock was set back, all earlier overviews are forgotten."""
        points = self._points
        if self.is_behind(overview.at):
            self.begin({}, overview.at)
        if len(points) > 1 and points[-1].at - points[-2].at < self.least_seconds:
            points.pop()
        points.append(_Point(overview.at, _counted(overview)))
        # Keep one point that is older than the window: the rate of the oldest shown point needs it.
        while len(points) > 2 and points[1].at < overview.at - self.kept_seconds:
            points.popleft()
        self._measure(overview)
        for partition in overview.partitions:
            if partition.state_bytes is not None:
                self._bytes[partition.partition] = partition.state_bytes

    def _measure(self, overview: Overview) -> None:
        self._latency = {partition.partition: partition.measurements.latency for partition in overview.partitions}
        self._latency[TOTAL] = merged(partition.measurements.latency for partition in overview.partitions)
        known = self._latencies
        if not known or overview.at - known[-1][0] >= LATENCY_STEP_SECONDS:
            known.append((overview.at, self._latency))
        while len(known) > 1 and known[0][0] < overview.at - self.kept_seconds:
            known.popleft()

    def latencies(self, shares: Sequence[float], partition: str | None = TOTAL) -> list[float | None]:
        """The quantiles `shares` (0 to 1) of the seconds from sending to commit, over the messages of the kept minutes.

        None without messages, and before the second overview.
        """
        before = self._latencies[0][1] if self._latencies else {}
        if partition not in self._latency or before is self._latency:
            return [None] * len(shares)
        found = self._latency[partition]
        if partition in before:
            found = found.since(before[partition])
        return [found.quantile(LATENCY_SECONDS, share) for share in shares]

    def now(self, partition: str | None = TOTAL) -> Flow | None:
        """The current flow, measured over at least `least_seconds` if possible. None before the second overview."""
        if len(self._points) < 2:
            return None
        last = self._points[-1]
        before = next(
            (point for point in reversed(self._points) if last.at - point.at >= self.least_seconds), self._points[0]
        )
        return _flow(partition, before, last)

    def series(self, partition: str | None = TOTAL, points: int = POINTS) -> list[Flow]:
        """The kept minutes, oldest first, in at most `points` points, plus the one that is still in progress.

        A finished point never changes, so that a line drawn from them does not flicker.
        """
        return [flows[partition] for flows in self._flows(points) if partition in flows]

    def _flows(self, points: int) -> Iterable[dict[str | None, Flow]]:
        """The flows between successive points, oldest first. Those between finished points are computed once."""
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
        """The states' size in bytes when it was last measured; None if it never was."""
        if partition is TOTAL:
            return sum(self._bytes.values()) if self._bytes else None
        return self._bytes.get(partition)

    def _thinned(self, points: int) -> Iterator[_Point]:
        """The newest point of each of `points` equal parts of the kept time."""
        span = self.kept_seconds / max(1, points)
        held: _Point | None = None
        for point in self._points:
            if held is not None and point.at // span != held.at // span:
                yield held
            held = point
        if held is not None:
            yield held


def _apart(times: Sequence[int]) -> Iterator[int]:
    """Times that are at least half a step apart: workers write their points at different times."""
    last = 0
    for at in times:
        if at - last >= STEP_SECONDS["fine"]:
            last = at
            yield at


def _as_counts(points: Sequence[Point], at: float) -> _Counts:
    """A partition's counts at a time: those of its last point until then, or of its first one."""
    point = next((one for one in reversed(points) if one.at <= at), points[0])
    return _Counts(point.came, point.left, point.waiting)


def _counted(overview: Overview) -> dict[str | None, _Counts]:
    counts: dict[str | None, _Counts] = {}
    came = left = waiting = 0
    for partition in overview.partitions:
        if partition.status.away:
            continue
        own = _Counts(partition.present + partition.left, partition.left, partition.status.length)
        counts[partition.partition] = own
        # A forwarded message arrives twice and leaves twice, but counts once in the total.
        came += own.came - partition.forwarded
        left += own.left - partition.forwarded
        waiting += own.waiting
    if not any(partition.status.away for partition in overview.partitions):  # else it would be lower, and higher again when its server is back
        counts[TOTAL] = _Counts(came, left, waiting)
    return counts


def _flows_between(before: _Point, after: _Point) -> dict[str | None, Flow]:
    flows = ((partition, _flow(partition, before, after)) for partition in after.counts)
    return {partition: flow for partition, flow in flows if flow is not None}


def _flow(partition: str | None, before: _Point, after: _Point) -> Flow | None:
    """None if the partition is not in both points, or if they have the same time. Counters that fell were deleted: the flow is 0."""
    seconds = after.at - before.at
    if seconds <= 0 or partition not in before.counts or partition not in after.counts:
        return None
    old, new = before.counts[partition], after.counts[partition]
    came, left = max(0, new.came - old.came), max(0, new.left - old.left)
    return Flow(round(after.at, 1), round(came / seconds, 1), round(left / seconds, 1), new.waiting)
