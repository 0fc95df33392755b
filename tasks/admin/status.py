"""The status of a group's partitions, in one pipelined read for any number of partitions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import redis

from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.partition_counts import PartitionCounts, read_counts
from celery_partitions.store.servers import server_at


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
#: The counters of `meta` that a status is made of.
META = ("processed", "paused", "running")
_UNKNOWN = PartitionCounts(0, 0, 0, 0, 0, None, ())


def read_status(client: redis.Redis, names: Names, partitions: int) -> list[PartitionStatus]:
    """The status of each partition in order, then of the ingress."""
    computations = names.computations_in(cast(list[bytes], client.hkeys(names.group_meta)))
    wanted = partitions_and_ingress(partitions)
    counts, answers = read_counts(client, names, wanted, computations, META, lambda pipe: request_holders(pipe, names))
    holders = holders_in(answers)
    return [
        partition_status(names, partition, holders, one, server_at(client, names, partition))
        for partition, one in zip(wanted, counts, strict=True)
    ]


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


def partition_status(names: Names, partition: str, holders: Holders, found: PartitionCounts | None, server: str = "") -> PartitionStatus:
    """`found`: with the fields `META`, and maybe more. `server`: from `server_at`."""
    counts = found or _UNKNOWN
    worker = holders.workers.get(partition)
    processed, paused, running = counts.meta[: len(META)] or (None,) * len(META)
    # An operator's edit may take a running key away before its owner counts again.
    running_keys = min(int(running or 0), counts.parked)
    return PartitionStatus(
        queue=names.queue_name(partition),
        owner=None if worker is None else node_name(worker),
        length=counts.waiting,
        processed=int(processed or 0),
        keys=counts.keys,
        parked=counts.parked - running_keys,
        dead=counts.dead,
        paused=paused is not None,
        delayed=counts.delayed,
        running=running_keys,
        refused_to=tuple(map(node_name, holders.refused.get(partition, ()))),
        server=server,
        away=bool(server) and found is None,
    )


def worker_id(node: str, unique: str) -> str:
    """A worker's id among the lease holders, unique even if two processes have the same node name."""
    return f"{node}/{unique}"


def node_name(worker: str) -> str:
    """The Celery node name in a worker id."""
    return worker.rpartition("/")[0]
