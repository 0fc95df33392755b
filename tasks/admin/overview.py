"""Everything that a page or a terminal shows about a group, in one pipelined read for any number of partitions."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import redis

from celery_partitions.admin.status import (
    HOLDERS_ANSWERS,
    META,
    Holders,
    PartitionStatus,
    holders_in,
    partition_status,
    request_holders,
)
from celery_partitions.model.topology import Topology
from celery_partitions.store.measurements import measurements_in, request_measurements
from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.partition_counts import PartitionCounts, read_counts
from celery_partitions.store.servers import server_at
from celery_partitions.store.telemetry import Measurements

#: Counters in a partition's `meta`, in addition to those of a status.
COUNTERS = ("failed", "forwarded", "emitted", "deduplicated", "skipped", "dead", "late")
#: Another field of `meta`.
TAKEOVERS = "takeovers"
#: `MEMORY USAGE` measures this many fields of a hash and estimates the rest from them.
WEIGHED_FIELDS = 5


@dataclass(frozen=True, slots=True)
class PartitionOverview:
    """One partition, or the ingress."""

    partition: str
    #: Queue, owner, messages waiting, keys, parked keys, dead letters, paused, delayed messages.
    status: PartitionStatus
    #: Seconds since its owner took it; None without an owner.
    lease_age_seconds: float | None
    #: Seconds since the queue's oldest message was sent, by the sender's clock. None if there is no message, or it has no time.
    oldest_age_seconds: float | None
    #: Estimated bytes of the server's memory that its states take; None if that was not measured.
    state_bytes: int | None
    # The following counters start when the group begins.
    #: Attempts in which the computation raised.
    failed: int
    #: Messages forwarded to the queue of their key's partition.
    forwarded: int
    #: Outputs of pipelines.
    emitted: int
    #: Messages dropped because their id had been seen before.
    deduplicated: int
    #: Messages dropped because they had expired or had been revoked.
    skipped: int
    late: int
    #: Messages that became dead letters, including those retried or discarded since.
    dead_lettered: int
    #: When it was last taken from a worker that had died, newest first: seconds since the epoch, by the server's clock.
    takeovers: tuple[float, ...] = ()
    #: What its workers measured; all zero before the first measurement.
    measurements: Measurements = field(default_factory=Measurements)

    @property
    def left(self) -> int:
        """Messages that left for good: applied, forwarded, expired, revoked, duplicates, dead letters."""
        return self.status.processed + self.forwarded + self.skipped + self.deduplicated + self.dead_lettered

    @property
    def present(self) -> int:
        """Messages that wait, in the queue or for their `eta`."""
        return self.status.length + self.status.delayed


@dataclass(frozen=True, slots=True)
class Overview:
    """A group at one moment."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    #: The partitions in order, then the ingress.
    partitions: tuple[PartitionOverview, ...]


class Readable(Protocol):
    """The part of a group that an overview needs (see `runtime/group.py`)."""

    names: Names
    topology: Topology
    #: The computations that had run in the group at the last read: with them one read is enough.
    computations_seen: tuple[str, ...]

    @property
    def client(self) -> redis.Redis: ...

    def check(self) -> None:
        """Raises `SetupError` if this process and the group do not agree on the number of partitions."""


def read_overview(group: Readable, *, state_bytes: bool = False, only: Collection[str] | None = None) -> Overview:
    """Read a group in one round trip, or in two if it has a computation that this process has not seen yet.

    `only`: read only these partitions.
    `state_bytes`: also measure the states' size. The server then samples each hash; do it every 30 seconds at most.
    Raises redis-py's errors, and `SetupError` if this process and the group do not agree on the number of partitions.
    """
    group.check()
    wanted = [partition for partition in partitions_and_ingress(group.topology.served) if only is None or partition in only]
    while True:
        known = group.computations_seen
        counts, answers = _ask(group, wanted, known, state_bytes)
        group_meta = answers[HOLDERS_ANSWERS]
        seen = group.names.computations_in(group_meta) if isinstance(group_meta, dict) else ()
        if seen == known:
            return _overview(group, wanted, counts, answers, len(known) if state_bytes else None)
        group.computations_seen = seen


def _ask(
    group: Readable, wanted: Sequence[str], computations: Sequence[str], state_bytes: bool
) -> tuple[list[PartitionCounts | None], list[Any]]:
    names = group.names

    def also(pipe: redis.client.Pipeline) -> None:
        request_holders(pipe, names)
        pipe.hgetall(names.group_meta)
        pipe.hgetall(names.since)
        request_measurements(pipe, names, wanted)
        for partition in wanted if state_bytes else ():
            for computation in computations:
                pipe.memory_usage(names.states(partition, computation), samples=WEIGHED_FIELDS)

    return read_counts(group.client, names, wanted, computations, (*META, *COUNTERS, TAKEOVERS), also)


def _overview(
    group: Readable, wanted: Sequence[str], counts: Sequence[PartitionCounts | None], answers: list[Any], weighed: int | None
) -> Overview:
    """`weighed`: how many hashes of each partition were weighed."""
    holders = holders_in(answers[:HOLDERS_ANSWERS])
    _, since, measured, *weights = answers[HOLDERS_ANSWERS:]
    measurements = measurements_in(measured, wanted)
    found = [
        _partition(
            group.names,
            partition,
            holders,
            counts[number],
            server=server_at(group.client, group.names, partition),
            lease_age=_lease_age(partition, holders, since),
            weights=None if weighed is None else weights[number * weighed : (number + 1) * weighed],
            measurements=measurements[partition],
        )
        for number, partition in enumerate(wanted)
    ]
    return Overview(holders.now, tuple(found))


def _partition(
    names: Names,
    partition: str,
    holders: Holders,
    counts: PartitionCounts | None,
    *,
    server: str,
    lease_age: float | None,
    weights: Sequence[Any] | None,
    measurements: Measurements,
) -> PartitionOverview:
    sent, counters = (None, ()) if counts is None else (counts.sent, counts.meta[len(META) :])
    *numbers, taken = counters or [None] * (len(COUNTERS) + 1)
    failed, forwarded, emitted, deduplicated, skipped, dead_lettered, late = map(int_or_zero, numbers)
    return PartitionOverview(
        partition=partition,
        status=partition_status(names, partition, holders, counts, server),
        lease_age_seconds=lease_age,
        oldest_age_seconds=None if sent is None else max(0.0, holders.now - sent),
        state_bytes=None if weights is None else sum(one for one in weights if isinstance(one, int)),
        failed=failed,
        forwarded=forwarded,
        emitted=emitted,
        deduplicated=deduplicated,
        skipped=skipped,
        late=late,
        dead_lettered=dead_lettered,
        takeovers=tuple(int_or_zero(text) / 1000 for text in (taken or b"").split()),
        measurements=measurements,
    )


def _lease_age(partition: str, holders: Holders, since: Any) -> float | None:
    taken = since.get(partition.encode()) if isinstance(since, dict) else None
    if taken is None or partition not in holders.workers:
        return None
    return max(0.0, holders.now - int_or_zero(taken) / 1_000_000)


def int_or_zero(value: bytes | None) -> int:
    """A counter's value; 0 if it is not a number."""
    try:
        return int(value or 0)
    except ValueError:
        return 0
