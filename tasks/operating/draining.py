"""The workers of a group, and draining one: it gives all its partitions up and takes no more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

import redis

from tasks.operating.audit import Audit
from tasks.operating.status import node_name
from tasks.store.names import Names
from tasks.store.scripts import script

Answer = Literal["ok", "already", "unknown"]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One living worker of partitions."""

    #: Its Celery node name.
    node: str
    #: The queues that it holds.
    queues: list[str]
    #: The queues that it was pinned to (`-Q`); none: its share of all.
    pinned: list[str]
    draining: bool
    #: Until its leases end, unless it renews them.
    lease_seconds: float


def read_workers(client: redis.Redis, names: Names) -> list[WorkerStatus]:
    """The workers whose leases hold, by node name."""
    with client.pipeline(transaction=False) as pipe:
        pipe.zrange(names.workers, 0, -1, withscores=True)
        pipe.hgetall(names.owners)
        pipe.hgetall(names.pins)
        pipe.hkeys(names.draining)
        pipe.time()
        members, owners, pins, draining, (seconds, micros) = pipe.execute()
    now = seconds * 1000 + micros // 1000
    found = []
    for worker, until in members:
        if until < now:
            continue
        held = sorted((unit.decode() for unit, owner in owners.items() if owner == worker), key=_in_order)
        pinned = [unit for unit in pins.get(worker, b"").decode().split(",") if unit]
        found.append(
            WorkerStatus(
                node_name(worker.decode()),
                [names.queue_name(unit) for unit in held],
                [names.queue_name(unit) for unit in pinned],
                worker in draining,
                round((until - now) / 1000, 3),
            )
        )
    return sorted(found, key=lambda worker: worker.node)


def drain(client: redis.Redis, names: Names, node: str, *, by: str) -> Answer:
    """A worker gives up what it holds after its batch, and takes no more until `undrain`, or until it ends.

    A worker that is started later under the same node name is not drained.
    """
    return _set_draining(client, names, node, "drain", by)


def undrain(client: redis.Redis, names: Names, node: str, *, by: str) -> Answer:
    """The worker takes its share again."""
    return _set_draining(client, names, node, "undrain", by)


def _set_draining(client: redis.Redis, names: Names, node: str, action: str, by: str) -> Answer:
    answer: bytes = script("drain").run(
        client,
        [names.workers, names.draining, names.audit],
        [node, action, names.changed, *Audit(client, names).words(by, action, {"node": node})],
    )
    return cast(Answer, answer.decode())


def _in_order(unit: str) -> tuple[bool, int]:
    return (False, int(unit)) if unit.isdigit() else (True, 0)
