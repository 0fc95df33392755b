"""Reads the facts that the rules of `attention.py` judge. Every read is bounded, however much the group holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any, NamedTuple, Protocol, cast

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.checks import Check
from celery_partitions.admin.dead_letter_query import DeadLetterGroup, grouped
from celery_partitions.admin.dead_letters import DeadLetters
from celery_partitions.admin.doctor import examine_server
from celery_partitions.admin.overview import Overview, PartitionOverview, Readable
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.resize import Progress, read_progress
from celery_partitions.admin.workers import WorkerStatus, read_workers
from celery_partitions.model.keys import shown_key
from celery_partitions.store.history import Point, read_points
from celery_partitions.store.names import INGRESS, Names
from celery_partitions_config.settings import Settings

#: The window of a partition's pace, in fine points (five minutes), and how far back to look for the beginning of trouble, in coarse points
#: (two hours).
FINE_POINTS, COARSE_POINTS = 31, 24
#: A pace over a shorter time says nothing.
MIN_PACE_SECONDS = 20.0
#: At most this many parked keys, dead letters and audit records are read.
MAX_PARKED, MAX_DEAD_LETTERS, MAX_AUDIT = 5_000, 5_000, 1_000


class Pace(NamedTuple):
    """What a partition did in the last five minutes."""

    #: How long it was observed; 0: not long enough, and the rates are not known.
    seconds: float
    in_per_second: float = 0.0
    done_per_second: float = 0.0
    #: Messages that waited at the beginning.
    waiting_before: int = 0
    #: Messages wait, and none was done since; None: something was done just now, or nothing waits.
    idle_since: float | None = None
    #: The backlog has not been empty since.
    behind_since: float | None = None


@dataclass(frozen=True, slots=True)
class ParkedCause:
    """Parked keys with the same cause."""

    #: As `ParkedKey.why`.
    why: str
    task: str | None
    error: str
    count: int
    waiting: int
    since: float
    #: One of the keys, as it is shown.
    example: str


class Pause(NamedTuple):
    who: str
    at: float


class SinkFact(NamedTuple):
    name: str
    waiting: int
    owner: str | None
    #: Outputs wait, and none was delivered since.
    idle_since: float | None


class SourceFact(NamedTuple):
    """A source that has not ended and that no process reads."""

    name: str
    #: When its last process's lease ended.
    until: float


class Ends(NamedTuple):
    """The names of an app's sinks and sources that have a process."""

    sinks: tuple[str, ...] = ()
    sources: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """A group at one moment, as the rules need it."""

    overview: Overview
    lease_seconds: float = 10.0
    workers: Sequence[WorkerStatus] = ()
    #: Of partitions with waiting messages.
    paces: Mapping[str, Pace] = field(default_factory=dict)
    #: Partition without an owner → when a worker last wrote its history.
    last_points: Mapping[str, float] = field(default_factory=dict)
    parked: Sequence[ParkedCause] = ()
    #: There are more parked keys than were read.
    parked_cut: bool = False
    dead_letter_kinds: Sequence[DeadLetterGroup] = ()
    pauses: Mapping[str, Pause] = field(default_factory=dict)
    sinks: Sequence[SinkFact] = ()
    sources: Sequence[SourceFact] = ()
    #: The findings of `doctor` about the server that are not ok.
    server: Sequence[Check] = ()
    #: A resize that is in progress.
    resize: Progress | None = None

    @property
    def at(self) -> float:
        return self.overview.at


class Attended(Readable, Protocol):
    """The part of a group that is read."""

    settings: Settings

    @property
    def parked_keys(self) -> ParkedKeys: ...

    @property
    def dead_letters(self) -> DeadLetters: ...

    @property
    def audit(self) -> Audit: ...


def read_facts(
    group: Attended, overview: Overview, ends: Ends, *, server: Sequence[Check] | None = None, kinds: Sequence[DeadLetterGroup] | None = None
) -> Facts:
    """Read what the rules need. `server`, `kinds`: as read before, because these two cost more than the rest. Raises redis-py's errors."""
    parked, cut = read_parked_causes(group, overview)
    return Facts(
        overview,
        lease_seconds=group.settings.lease_seconds,
        workers=read_workers(group.client, group.names),
        paces=read_paces(group.client, group.names, overview),
        last_points=_last_points(group.client, group.names, overview),
        parked=parked,
        parked_cut=cut,
        dead_letter_kinds=read_kinds(group) if kinds is None else kinds,
        pauses=read_pauses(group, overview),
        sinks=[_sink(group, name, overview.at) for name in ends.sinks],
        sources=[found for name in ends.sources if (found := _source(group, name, overview.at)) is not None],
        server=server_findings(group) if server is None else server,
        resize=None if group.topology.former is None else read_progress(group.client, group.names, group.settings.partitions),
    )


def read_paces(client: redis.Redis, names: Names, overview: Overview) -> dict[str, Pace]:
    """The pace of each partition that has waiting messages and an owner."""
    rows = [one for one in overview.partitions if one.status.length and one.status.owner is not None]
    fine = read_points(client, [names.history(one.partition, "fine") for one in rows], FINE_POINTS)
    coarse = read_points(client, [names.history(one.partition, "coarse") for one in rows], COARSE_POINTS)
    return {
        one.partition: pace(one, overview.at, recent, older)
        for one, recent, older in zip(rows, fine, coarse, strict=True)
    }


def pace(one: PartitionOverview, now: float, recent: Sequence[Point], older: Sequence[Point]) -> Pace:
    """Judge a partition's points, oldest first. `recent` are close together, `older` go further back."""
    start = recent[0].at if recent else now
    points = [*(point for point in older if point.at < start), *recent]
    idle_since = behind_since = now
    for point in reversed(points):
        if not point.waiting:
            break
        behind_since = point.at
    for point in reversed(points):
        if point.left != one.left or not point.waiting:
            break
        idle_since = point.at
    seconds = now - start
    if seconds < MIN_PACE_SECONDS:
        return Pace(0.0, idle_since=idle_since, behind_since=behind_since)
    first = recent[0]
    return Pace(
        seconds,
        max(0, one.left + one.present - first.came) / seconds,
        max(0, one.left - first.left) / seconds,
        first.waiting,
        idle_since,
        behind_since,
    )


def _last_points(client: redis.Redis, names: Names, overview: Overview) -> dict[str, float]:
    rows = [one.partition for one in overview.partitions if one.status.owner is None]
    found = read_points(client, [names.history(partition, "fine") for partition in rows], 1)
    return {partition: float(points[-1].at) for partition, points in zip(rows, found, strict=True) if points}


def read_parked_causes(group: Attended, overview: Overview) -> tuple[list[ParkedCause], bool]:
    """The parked keys by cause, and whether there are more than were read."""
    found: dict[tuple[str, str | None, str], ParkedCause] = {}
    left = MAX_PARKED
    for one in overview.partitions:
        if not (one.status.parked or one.status.running) or not left:
            continue
        partition: Any = one.partition if one.partition == INGRESS else int(one.partition)
        for parked in islice(group.parked_keys.of_partition(partition), left):
            left -= 1
            cause = (parked.why, parked.task, parked.error.partition(":")[0])
            known = found.get(cause)
            since = parked.since or overview.at
            if known is None:
                found[cause] = ParkedCause(parked.why, parked.task, parked.error, 1, parked.waiting, since, shown_key(parked.key))
            else:
                found[cause] = replace(known, count=known.count + 1, waiting=known.waiting + parked.waiting, since=min(known.since, since))
    return list(found.values()), not left


def read_kinds(group: Attended) -> list[DeadLetterGroup]:
    """The kinds of dead letters among the first `MAX_DEAD_LETTERS`, the newest kind first."""
    return sorted(grouped(islice(group.dead_letters.all(), MAX_DEAD_LETTERS)), key=lambda kind: -kind.oldest_died_at)


def read_pauses(group: Attended, overview: Overview) -> dict[str, Pause]:
    """Partition → who paused it, from the audit. A partition that a failure policy paused is missing."""
    paused = {one.status.queue: one.partition for one in overview.partitions if one.status.paused}
    found: dict[str, Pause] = {}
    for record in group.audit.last(MAX_AUDIT) if paused else ():
        queues = record.detail.get("queues")
        if record.what not in ("pause", "resume") or not isinstance(queues, list):
            continue
        for queue in queues:
            partition = paused.pop(queue, None) if isinstance(queue, str) else None
            if partition is not None and record.what == "pause":
                found[partition] = Pause(record.who, record.at)
        if not paused:
            break
    return found


def _sink(group: Attended, name: str, now: float) -> SinkFact:
    names = Names(group.names.sink_group(name), group.names.prefix)
    waiting = group.client.llen(names.queue("0"))
    (points,) = read_points(group.client, [names.history("0", "fine")], FINE_POINTS)
    workers = read_workers(group.client, names)
    idle_since = None
    if points and waiting:
        idle_since = now
        for point in reversed(points):
            if point.left != points[-1].left or not point.waiting:
                break
            idle_since = point.at
    return SinkFact(name, waiting, workers[0].node if workers else None, idle_since)


def _source(group: Attended, name: str, now: float) -> SourceFact | None:
    until, ended = cast(list[bytes | None], group.client.hmget(group.names.source(name), ["until", "ended"]))
    try:
        ends = int(until or 0) / 1000
    except ValueError:
        return None
    return SourceFact(name, ends) if 0 < ends < now and ended != b"1" else None


def server_findings(group: Attended) -> list[Check]:
    """What `doctor` says about the server that is not ok: eviction, persistence, memory, connections, replicas."""
    return [check for check in examine_server(group.settings, group.client, group.names) if check.verdict != "ok"]

