"""What can be seen of a group from outside: one pipelined read, whatever N is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import redis

from tasks.store.names import PRIORITY_SUFFIXES, Names, units


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


def read_status(client: redis.Redis, names: Names, partitions: int) -> list[UnitStatus]:
    """Each partition in order, then the ingress."""
    group = cast(dict[bytes, bytes], client.hgetall(names.facts_of_group))
    start = b"computation:"
    computations = [field[len(start) :].decode() for field in group if field.startswith(start)]
    all_units = units(partitions)
    with client.pipeline(transaction=False) as pipe:
        pipe.hgetall(names.owners)
        pipe.zrange(names.workers, 0, -1, withscores=True)
        pipe.time()
        for unit in all_units:
            queue = names.queue(unit)
            for name in (queue, *(queue + suffix for suffix in PRIORITY_SUFFIXES)):
                pipe.llen(name)
            pipe.hmget(names.facts(unit), ["processed", "paused"])
            pipe.hlen(names.parked(unit))
            pipe.hlen(names.dead(unit))
            pipe.zcard(names.later(unit))
            for computation in computations:
                pipe.hlen(names.states(unit, computation))
        owners, members, (seconds, micros), *rows = pipe.execute(raise_on_error=False)
    now = seconds * 1000 + micros // 1000
    alive = {worker for worker, until in members if until >= now}
    width = 1 + len(PRIORITY_SUFFIXES) + 4 + len(computations)
    found = []
    for number, unit in enumerate(all_units):
        row = rows[number * width : (number + 1) * width]
        lengths, (facts, parked, dead, later), keys = row[:4], row[4:8], row[8:]
        owner = owners.get(unit.encode())
        processed, paused = facts if isinstance(facts, list) else (None, None)
        found.append(
            UnitStatus(
                queue=names.queue_name(unit),
                owner=node_name(owner.decode()) if owner in alive else None,
                length=sum(map(_count, lengths)),
                processed=int(processed or 0),
                keys=sum(map(_count, keys)),
                parked=_count(parked),
                dead=_count(dead),
                paused=paused == b"1",
                delayed=_count(later),
            )
        )
    return found


def _count(answer: Any) -> int:
    """A key of a wrong type answers with an error: nothing that could be counted is there."""
    return answer if isinstance(answer, int) else 0


def worker_id(node: str, unique: str) -> str:
    """A worker's id among the lease holders: unique even where two processes have one node name."""
    return f"{node}/{unique}"


def node_name(worker: str) -> str:
    """The Celery node name in a worker id."""
    return worker.rpartition("/")[0]
