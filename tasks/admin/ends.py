"""The ends of pipelines: the groups of sinks that have a process, and the progress of sources."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

from celery_partitions.admin.attention_facts import Attended, Ends
from celery_partitions.admin.history_json import points_in, recent_rate
from celery_partitions.admin.overview import int_or_zero, read_overview
from celery_partitions.admin.workers import read_workers
from celery_partitions.store.history import read_points


@dataclass(frozen=True, slots=True)
class SourceStatus:
    """A source that a process reads."""

    name: str
    #: Pushes so far; each is some messages, together with the new position.
    pushes: int
    #: When the lease of its process ends, unless it is renewed: seconds since the epoch. 0: no process ever read it.
    lease_until: float
    #: It has no more input.
    ended: bool


def look_at_sink(group: Attended, name: str) -> dict[str, Any]:
    """The group of one sink: what waits, its process, rates, and how many keys are parked and messages dead. `group`: of the sink."""
    overview = read_overview(group)
    queue, ingress = overview.partitions[0], overview.partitions[-1]
    (points,) = read_points(group.client, [group.names.history("0", "fine")], points_in(3600))
    error = queue.measurements.last_error
    return {
        "sink": name,
        "at": overview.at,
        "waiting": queue.status.length + ingress.status.length,
        "oldest_age_seconds": queue.oldest_age_seconds,
        "done_per_second": recent_rate(points, overview.at),
        "delivered": queue.status.processed,
        "failed": queue.failed,
        "parked": queue.status.parked,
        "dead_letters": queue.status.dead,
        "paused": queue.status.paused,
        "processes": [one.node for one in read_workers(group.client, group.names)],
        "last_error": None if error is None else {"text": error.text, "at": error.at},
    }


def read_sources(group: Attended, ends: Ends) -> list[SourceStatus]:
    """The sources of this process's pipelines that `partitions source` reads."""
    with group.client.pipeline(transaction=False) as pipe:
        for name in ends.sources:
            pipe.hmget(group.names.source(name), ["number", "until", "ended"])
        rows = cast(list[list[bytes | None]], pipe.execute())
    return [
        SourceStatus(name, int_or_zero(number), int_or_zero(until) / 1000, ended == b"1")
        for name, (number, until, ended) in zip(ends.sources, rows, strict=True)
    ]
