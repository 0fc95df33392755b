"""What workers wrote into their histories, as series for charts: the whole group, one partition, or one computation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from celery_partitions.admin.overview import Overview
from celery_partitions.admin.workers import WorkerStatus
from celery_partitions.store.history import MAX_POINTS, STEP_SECONDS, Point
from celery_partitions.store.names import Resolution

#: Seconds that a chart can show → which points it is made of.
RANGES: Mapping[int, Resolution] = {3600: "fine", 6 * 3600: "coarse", 48 * 3600: "coarse"}

#: Rates are those of this time.
RECENT_SECONDS = 300


class Sample(NamedTuple):
    """One point of a chart; in JSON a list."""

    at: int
    in_per_second: float
    done_per_second: float
    waiting: int
    #: None without messages. Of the whole group: that of the slowest partition.
    p99_seconds: float | None
    failed_per_second: float


def points_in(seconds: int) -> int:
    """How many points of a history cover a range."""
    resolution = RANGES[seconds]
    return min(MAX_POINTS[resolution], seconds // STEP_SECONDS[resolution]) + 1


def samples(histories: Mapping[str, Sequence[Point]], seconds: int, now: float, *, forwarded: int = 0) -> list[Sample]:
    """The sum of several histories, oldest first. Where all have a gap, there is no sample. `forwarded`: see `History.begin`."""
    step = STEP_SECONDS[RANGES[seconds]]
    start = int(now - seconds) // step
    by_step: dict[int, int] = {}
    known = [points for points in histories.values() if points]
    for points in known:
        for point in points:
            if point.at // step >= start:
                by_step[point.at // step] = max(point.at, by_step.get(point.at // step, 0))
    places = [0] * len(known)
    before: tuple[int, int, int, int] | None = None
    found = []
    for number, at in sorted(by_step.items()):
        came, left, failed, waiting, p99 = -forwarded, -forwarded, 0, 0, -1
        for which, points in enumerate(known):
            place = places[which]
            while place + 1 < len(points) and points[place + 1].at // step <= number:
                place += 1
            places[which] = place
            point = points[place]
            came, left, failed = came + point.came, left + point.left, failed + point.failed
            if point.at // step == number:
                p99 = max(p99, point.p99)
            if point.at // step <= number:
                waiting += point.waiting
        if before is not None and at > before[0]:
            took = at - before[0]
            rates = [round(max(0, new - old) / took, 1) for new, old in ((came, before[1]), (left, before[2]), (failed, before[3]))]
            found.append(Sample(at, rates[0], rates[1], waiting, None if p99 < 0 else p99 / 1_000_000, rates[2]))
        before = (at, came, left, failed)
    return found


def recent_rate(points: Sequence[Point], now: float) -> float | None:
    """Messages done per second in the last five minutes. None: not known."""
    return mean([one.done_per_second for one in samples({"": points}, 3600, now) if one.at >= now - RECENT_SECONDS])


def mean(values: Sequence[float]) -> float | None:
    """Rounded to a tenth. None without values."""
    return round(sum(values) / len(values), 1) if values else None


def marks(overview: Overview, workers: Sequence[WorkerStatus], seconds: int, only: str | None = None) -> list[dict[str, Any]]:
    """What happened at a known time: takeovers from dead workers, and starts of workers with other code than an older one. Oldest first."""
    since = overview.at - seconds
    found = [
        {"at": at, "what": f"{one.status.queue} was taken from a dead worker"}
        for one in overview.partitions
        if only in (None, one.partition)
        for at in one.takeovers
        if at >= since
    ]
    codes: set[str] = set()
    reports = (worker.report for worker in workers if worker.report is not None)
    for report in sorted(reports, key=lambda report: report.started_at):
        if codes and report.code not in codes and report.started_at >= since:
            found.append({"at": report.started_at, "what": f"a worker with other code started on {report.host}"})
        codes.add(report.code)
    return sorted(found, key=lambda mark: mark["at"])
