"""The status of a group's partitions, in one pipelined read for any number of partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import PRIORITY_SUFFIXES, Names, partitions_and_ingress, queue_lists
from celery_partitions.store.servers import server_at, what_there_is


@dataclass(frozen=True, slots=True)
class PartitionStatus:
    """One partition, or the ingress."""

    queue: str
    #: The node name of the worker that owns it; None without an owner.
    owner: str | None
    #: Messages waiting in the queue, including those with a priority.
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
    #: Keys whose call was in flight at the last commit, or that wait for such a call. They are not counted as `parked`.
    running: int = 0
    #: The running workers that may not own it, because their code is too old to read its states.
    refused_to: tuple[str, ...] = ()
    #: Its server (`PARTITIONS_URL`), as host:port. Empty: the control server.
    server: str = ""
    #: Its server does not answer, so all counts are unknown, and 0 here.
    away: bool = False


@dataclass(frozen=True, slots=True)
class Holders:
    """The owners of the partitions at one moment."""

    #: Seconds since the epoch, by the server's clock.
    now: float
    #: Partition → worker id, for leases that have not expired.
    workers: dict[str, str]
    #: Partition → ids of the workers whose code cannot read its states.
    refused: dict[str, list[str]]


#: How many answers `request_holders` has.
HOLDERS_ANSWERS = 4
#: The lists with messages of a partition: its queue, its inbox, and the priority lists of the queue.
_LISTS = 2 + len(PRIORITY_SUFFIXES)
#: The counters of `meta` that a status is made of.
_META = ("processed", "paused", "running")


def read_status(client: redis.Redis, names: Names, partitions: int) -> list[PartitionStatus]:
    """The status of each partition in order, then of the ingress."""
    computations = names.computations_in(cast(list[bytes], client.hkeys(names.group_meta)))
    all_partitions = partitions_and_ingress(partitions)
    with what_there_is(client) as pipe:
        request_holders(pipe, names)
        for partition in all_partitions:
            request_partition(pipe, names, partition, computations)
        answers = pipe.execute(raise_on_error=False)
    holders = holders_in(answers[:HOLDERS_ANSWERS])
    width = partition_answers(computations)
    found = []
    for number, partition in enumerate(all_partitions):
        begin = HOLDERS_ANSWERS + number * width
        found.append(partition_status(names, partition, holders, answers[begin : begin + width], server_at(client, names, partition))[0])
    return found


def request_holders(pipe: redis.client.Pipeline, names: Names) -> None:
    """Add the commands that read the owners to a pipeline. They have `HOLDERS_ANSWERS` answers."""
    pipe.hgetall(names.owners)
    pipe.zrange(names.workers, 0, -1, withscores=True)
    pipe.time()
    pipe.hgetall(names.refused)


def holders_in(answers: Sequence[Any]) -> Holders:
    """Parse the answers to `request_holders`. Raises the server's error if one of them is an error."""
    for answer in answers:
        if isinstance(answer, Exception):
            raise answer
    owners, members, (seconds, micros), unreadable = answers
    now = seconds * 1000 + micros // 1000
    alive = {worker for worker, until in members if until >= now}
    held = {partition.decode(): worker.decode() for partition, worker in owners.items() if worker in alive}
    refused: dict[str, list[str]] = {}
    for worker, partitions in sorted(unreadable.items()):
        for partition in partitions.decode().split(",") if worker in alive else ():
            refused.setdefault(partition, []).append(worker.decode())
    return Holders(now=seconds + micros / 1_000_000, workers=held, refused=refused)


def partition_answers(computations: Sequence[str]) -> int:
    """How many answers `request_partition` has."""
    return _LISTS + 4 + len(computations)


def request_partition(
    pipe: redis.client.Pipeline, names: Names, partition: str, computations: Sequence[str], more: Sequence[str] = ()
) -> None:
    """Add the commands that read one partition to a pipeline. `more`: further counters of its `meta`."""
    for name in (*queue_lists(names, partition), names.inbox(partition)):
        pipe.llen(name)
    pipe.hmget(names.meta(partition), [*_META, *more])
    pipe.hlen(names.parked(partition))
    pipe.hlen(names.dead(partition))
    pipe.zcard(names.delayed(partition))
    for computation in computations:
        pipe.hlen(names.states(partition, computation))


def partition_status(
    names: Names, partition: str, holders: Holders, row: Sequence[Any], server: str = ""
) -> tuple[PartitionStatus, list[bytes | None]]:
    """Parse the answers to `request_partition`: the status, then the further counters in the order of `more` (empty if `meta` is not a
    hash). `server`: from `server_at`."""
    lengths, (meta, parked, dead, delayed), keys = row[:_LISTS], row[_LISTS : _LISTS + 4], row[_LISTS + 4 :]
    worker = holders.workers.get(partition)
    processed, paused, running, *more = meta if isinstance(meta, list) else (None, None, None)
    apart = _count(parked)
    # An operator's edit may take a running key away before its owner counts again.
    running_keys = min(int(running or 0), apart)
    status = PartitionStatus(
        queue=names.queue_name(partition),
        owner=None if worker is None else node_name(worker),
        length=sum(map(_count, lengths)),
        processed=int(processed or 0),
        keys=sum(map(_count, keys)),
        parked=apart - running_keys,
        dead=_count(dead),
        paused=paused is not None,
        delayed=_count(delayed),
        running=running_keys,
        refused_to=tuple(map(node_name, holders.refused.get(partition, ()))),
        server=server,
        away=bool(server) and isinstance(row[0], SERVER_ERRORS),
    )
    return status, more


def _count(answer: Any) -> int:
    """A count; 0 if the key has the wrong type, for which Redis answers with an error."""
    return answer if isinstance(answer, int) else 0


def worker_id(node: str, unique: str) -> str:
    """A worker's id among the lease holders, unique even if two processes have the same node name."""
    return f"{node}/{unique}"


def node_name(worker: str) -> str:
    """The Celery node name in a worker id."""
    return worker.rpartition("/")[0]
