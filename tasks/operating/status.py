"""What can be seen of a group from outside: one pipelined read, whatever N is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from celery_partitions.store.names import PRIORITY_SUFFIXES, Names, units


@dataclass(frozen=True, slots=True)
class UnitStatus:
    """One partition, or the ingress."""

    queue: str
    #: The node name of the worker that holds it; None when nobody does.
    owner: str | None
    #: Messages waiting in the queue, those with a priority included.
    length: int
    #: Messages applied since the group began.
    processed: int
    #: Keys that have a state, over all computations.
    keys: int
    #: Keys whose messages wait for a retry.
    parked: int
    #: Dead letters.
    dead: int
    paused: bool
    #: Messages that wait for their `eta`.
    delayed: int


@dataclass(frozen=True, slots=True)
class Holders:
    """Who holds what, at one moment."""

    #: Seconds since the epoch, by the server's clock.
    now: float
    #: Unit → worker id, of leases that have not ended.
    workers: dict[str, str]


#: Answers to `ask_holders`.
HOLDERS_ANSWERS = 3
#: The counters of `facts` that a status is made of.
_FACTS = ("processed", "paused")


def read_status(client: redis.Redis, names: Names, partitions: int) -> list[UnitStatus]:
    """Each partition in order, then the ingress."""
    computations = names.computations_in(cast(list[bytes], client.hkeys(names.facts_of_group)))
    all_units = units(partitions)
    with client.pipeline(transaction=False) as pipe:
        ask_holders(pipe, names)
        for unit in all_units:
            ask_unit(pipe, names, unit, computations)
        answers = pipe.execute(raise_on_error=False)
    holders = holders_in(answers[:HOLDERS_ANSWERS])
    width = unit_answers(computations)
    found = []
    for number, unit in enumerate(all_units):
        begin = HOLDERS_ANSWERS + number * width
        found.append(unit_status(names, unit, holders, answers[begin : begin + width])[0])
    return found


def ask_holders(pipe: redis.client.Pipeline, names: Names) -> None:
    """Put the question who holds what into a pipeline: `HOLDERS_ANSWERS` answers."""
    pipe.hgetall(names.owners)
    pipe.zrange(names.workers, 0, -1, withscores=True)
    pipe.time()


def holders_in(answers: Sequence[Any]) -> Holders:
    """The answers to `ask_holders`. Raises the server's refusal, without which nothing can be said."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    owners, members, (seconds, micros) = answers
    now = seconds * 1000 + micros // 1000
    alive = {worker for worker, until in members if until >= now}
    held = {unit.decode(): worker.decode() for unit, worker in owners.items() if worker in alive}
    return Holders(now=seconds + micros / 1_000_000, workers=held)


def unit_answers(computations: Sequence[str]) -> int:
    """How many answers `ask_unit` has."""
    return 1 + len(PRIORITY_SUFFIXES) + 4 + len(computations)


def ask_unit(
    pipe: redis.client.Pipeline, names: Names, unit: str, computations: Sequence[str], more: Sequence[str] = ()
) -> None:
    """Put the questions about one unit into a pipeline. `more`: further counters of its `facts`."""
    queue = names.queue(unit)
    for name in (queue, *(queue + suffix for suffix in PRIORITY_SUFFIXES)):
        pipe.llen(name)
    pipe.hmget(names.facts(unit), [*_FACTS, *more])
    pipe.hlen(names.parked(unit))
    pipe.hlen(names.dead(unit))
    pipe.zcard(names.later(unit))
    for computation in computations:
        pipe.hlen(names.states(unit, computation))


def unit_status(names: Names, unit: str, holders: Holders, row: Sequence[Any]) -> tuple[UnitStatus, list[bytes | None]]:
    """The answers to `ask_unit` as a status, and the further counters as they were asked for (none of a `facts` that is no hash)."""
    lengths, (facts, parked, dead, later), keys = row[:4], row[4:8], row[8:]
    worker = holders.workers.get(unit)
    processed, paused, *more = facts if isinstance(facts, list) else (None, None)
    status = UnitStatus(
        queue=names.queue_name(unit),
        owner=None if worker is None else node_name(worker),
        length=sum(map(_count, lengths)),
        processed=int(processed or 0),
        keys=sum(map(_count, keys)),
        parked=_count(parked),
        dead=_count(dead),
        paused=paused is not None,
        delayed=_count(later),
    )
    return status, more


def _count(answer: Any) -> int:
    """A key of a wrong type answers with an error: nothing that could be counted is there."""
    return answer if isinstance(answer, int) else 0


def worker_id(node: str, unique: str) -> str:
    """A worker's id among the lease holders: unique even where two processes have one node name."""
    return f"{node}/{unique}"


def node_name(worker: str) -> str:
    """The Celery node name in a worker id."""
    return worker.rpartition("/")[0]
