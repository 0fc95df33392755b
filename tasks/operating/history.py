"""The last five minutes of a group: from overviews, how many messages came and were done with each second."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from celery_partitions.model.measurements import LATENCY_SECONDS, Histogram, merged
from celery_partitions.operating.overview import Overview

#: How far back the sparklines go.
KEPT_SECONDS = 300.0
#: Overviews that come faster replace the youngest: memory is bounded, and no rate is of a moment too short to mean anything.
LEAST_SECONDS = 2.0
#: Points of a sparkline unless told otherwise: one for five seconds.
POINTS = 60
#: Latencies are of the kept minutes, which begin anew so often.
LATENCY_STEP_SECONDS = 30.0
#: Numbers of points that are asked for by turns in one process are few.
MOST_DRAWN = 8
#: In place of a unit: the whole group.
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

    def __init__(self, *, kept_seconds: float = KEPT_SECONDS, least_seconds: float = LEAST_SECONDS) -> None:
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
        for unit in overview.units:
            if unit.state_bytes is not None:
                self._bytes[unit.unit] = unit.state_bytes

    def _measure(self, overview: Overview) -> None:
        self._latency = {unit.unit: unit.measurements.latency for unit in overview.units}
        self._latency[TOTAL] = merged(unit.measurements for unit in overview.units).latency
        known = self._latencies
        if not known or overview.at - known[-1][0] >= LATENCY_STEP_SECONDS:
            known.append((overview.at, self._latency))
        while len(known) > 1 and known[0][0] < overview.at - self.kept_seconds:
            known.popleft()

    def latency(self, share: float, unit: str | None = TOTAL) -> float | None:
        """Seconds from a message's sending to its commit, which `share` (0 to 1) of the messages of the kept minutes took at most.

        None when there were none. At the first overview those since the group began count.
        """
        if unit not in self._latency:
            return None
        found, (_, before) = self._latency[unit], self._latencies[0]
        if before is not self._latency and unit in before:
            found = found.since(before[unit])
        return found.quantile(LATENCY_SECONDS, share)

    def now(self, unit: str | None = TOTAL) -> Flow | None:
        """What flows, over at least `least_seconds` when there is as much; None before the second overview."""
        if len(self._points) < 2:
            return None
        last = self._points[-1]
        before = next(
            (point for point in reversed(self._points) if last.at - point.at >= self.least_seconds), self._points[0]
        )
        return _flow(unit, before, last)

    def series(self, unit: str | None = TOTAL, points: int = POINTS) -> list[Flow]:
        """The kept minutes, oldest first, in at most `points` points (and the one that is not over).

        A point once over stays as it is, so that a line drawn of them does not tremble.
        """
        return [flows[unit] for flows in self._flows(points) if unit in flows]

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
            if len(self._drawn) > MOST_DRAWN:
                self._drawn.clear()
            drawn = self._drawn[points] = _Drawn(last, flows)
        return drawn.flows.values()

    def state_bytes(self, unit: str | None = TOTAL) -> int | None:
        """The bytes of the states as they were last weighed; None when they never were."""
        if unit is TOTAL:
            return sum(self._bytes.values()) if self._bytes else None
        return self._bytes.get(unit)

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
    for unit in overview.units:
        own = _Counts(unit.present + unit.left, unit.left, unit.status.length)
        counts[unit.unit] = own
        # A message that is forwarded comes and leaves twice, and is one.
        came += own.came - unit.forwarded
        left += own.left - unit.forwarded
        waiting += own.waiting
    counts[TOTAL] = _Counts(came, left, waiting)
    return counts


def _flows_between(before: _Point, after: _Point) -> dict[str | None, Flow]:
    flows = ((unit, _flow(unit, before, after)) for unit in after.counts)
    return {unit: flow for unit, flow in flows if flow is not None}


def _flow(unit: str | None, before: _Point, after: _Point) -> Flow | None:
    """None of a unit that was not there, or of two points at one moment. Counters that fell were deleted: nothing flowed."""
    seconds = after.at - before.at
    if seconds <= 0 or unit not in before.counts or unit not in after.counts:
        return None
    old, new = before.counts[unit], after.counts[unit]
    came, left = max(0, new.came - old.came), max(0, new.left - old.left)
    return Flow(round(after.at, 1), round(came / seconds, 1), round(left / seconds, 1), new.waiting)
