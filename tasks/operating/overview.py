"""All that a page or a terminal shows of a group: one pipelined read, whatever N is."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.model.measurements import Measurements
from celery_partitions.operating.group import Group
from celery_partitions.operating.status import (
    HOLDERS_ANSWERS,
    Holders,
    UnitStatus,
    ask_holders,
    ask_unit,
    holders_in,
    unit_answers,
    unit_status,
)
from celery_partitions.store.measurements import ask_measurements, measurements_in
from celery_partitions.store.names import Names, units
from celery_partitions.store.oldest import ask_oldest, oldest_sent

#: Counters of a unit's `facts`, beside those that a status has.
COUNTERS = ("failed", "forwarded", "emitted", "deduplicated", "skipped", "dead")
#: Of a hash, `MEMORY USAGE` weighs so many fields and reckons the rest by them.
WEIGHED_FIELDS = 5


@dataclass(frozen=True, slots=True)
class UnitOverview:
    """One partition, or the ingress."""

    unit: str
    #: Queue, owner, messages waiting, keys, parked keys, dead letters, paused, delayed messages.
    status: UnitStatus
    #: Seconds its owner has held it; None when nobody does.
    lease_age_seconds: float | None
    #: Seconds since the oldest message of the queue was sent, by the sender's clock; None without one, or when it does not say.
    oldest_age_seconds: float | None
    #: Bytes of the server's memory that its states take, reckoned; None where that was not asked.
    state_bytes: int | None
    # What follows counts since the group began.
    #: Messages whose computation raised, each time it did.
    failed: int
    #: Messages that were put into their key's queue.
    forwarded: int
    #: Outputs of pipelines.
    emitted: int
    #: Messages dropped because their id had been seen.
    deduplicated: int
    #: Messages that had expired, or were revoked.
    skipped: int
    #: Messages that became dead letters, those retried or discarded since included.
    buried: int
    #: What its workers measured; nothing, all zero, before they did.
    measurements: Measurements = field(default_factory=Measurements)

    @property
    def left(self) -> int:
        """Messages that left for good: applied, forwarded, expired, revoked, duplicates, dead."""
        return self.status.processed + self.forwarded + self.skipped + self.deduplicated + self.buried

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
    units: tuple[UnitOverview, ...]


def read_overview(group: Group, *, state_bytes: bool = False, only: Collection[str] | None = None) -> Overview:
    """A group as it stands, in one round trip; two when a computation has run that this process had not seen.

    `only`: of no other units.
    `state_bytes`: weigh the states too, which costs the server a walk over some of each hash: every 30 seconds is enough.
    Raises redis-py's errors, and `SetupError` when this process and the group don't agree on N.
    """
    group.check()
    wanted = [unit for unit in units(group.settings.partitions) if only is None or unit in only]
    while True:
        known = group.computations_seen
        answers = _ask(group, wanted, known, state_bytes)
        facts_of_group = answers[HOLDERS_ANSWERS]
        seen = group.names.computations_in(facts_of_group) if isinstance(facts_of_group, dict) else ()
        if seen == known:
            return _overview(group, wanted, known, state_bytes, answers)
        group.computations_seen = seen


def _ask(group: Group, wanted: Sequence[str], computations: Sequence[str], state_bytes: bool) -> list[Any]:
    names = group.names
    with group.client.pipeline(transaction=False) as pipe:
        ask_holders(pipe, names)
        pipe.hgetall(names.facts_of_group)
        pipe.hgetall(names.since)
        ask_oldest(pipe, [names.queue(unit) for unit in wanted])
        ask_measurements(pipe, names, wanted)
        for unit in wanted:
            ask_unit(pipe, names, unit, computations, COUNTERS)
            for computation in computations if state_bytes else ():
                pipe.memory_usage(names.states(unit, computation), samples=WEIGHED_FIELDS)
        return pipe.execute(raise_on_error=False)


def _overview(
    group: Group, wanted: Sequence[str], computations: Sequence[str], state_bytes: bool, answers: list[Any]
) -> Overview:
    holders = holders_in(answers[:HOLDERS_ANSWERS])
    _, since, oldest, measured, *rows = answers[HOLDERS_ANSWERS:]
    sent = oldest_sent(oldest, len(wanted))
    measurements = measurements_in(measured, wanted)
    width = unit_answers(computations)
    step = width + (len(computations) if state_bytes else 0)
    found = []
    for number, unit in enumerate(wanted):
        row = rows[number * step : (number + 1) * step]
        found.append(
            _unit(
                group.names,
                unit,
                holders,
                row[:width],
                lease_age=_lease_age(unit, holders, since),
                sent=sent[number],
                weights=row[width:] if state_bytes else None,
                measurements=measurements[unit],
            )
        )
    return Overview(holders.now, tuple(found))


def _unit(
    names: Names,
    unit: str,
    holders: Holders,
    row: Sequence[Any],
    *,
    lease_age: float | None,
    sent: float | None,
    weights: Sequence[Any] | None,
    measurements: Measurements,
) -> UnitOverview:
    status, counters = unit_status(names, unit, holders, row)
    failed, forwarded, emitted, deduplicated, skipped, buried = map(int_or_zero, counters or [None] * len(COUNTERS))
    return UnitOverview(
        unit=unit,
        status=status,
        lease_age_seconds=lease_age,
        oldest_age_seconds=None if sent is None else max(0.0, holders.now - sent),
        state_bytes=None if weights is None else sum(one for one in weights if isinstance(one, int)),
        failed=failed,
        forwarded=forwarded,
        emitted=emitted,
        deduplicated=deduplicated,
        skipped=skipped,
        buried=buried,
        measurements=measurements,
    )


def _lease_age(unit: str, holders: Holders, since: Any) -> float | None:
    taken = since.get(unit.encode()) if isinstance(since, dict) else None
    if taken is None or unit not in holders.workers:
        return None
    return max(0.0, holders.now - int_or_zero(taken) / 1_000_000)


def int_or_zero(value: bytes | None) -> int:
    """A counter; what is no number counts as nothing."""
    try:
        return int(value or 0)
    except ValueError:
        return 0
