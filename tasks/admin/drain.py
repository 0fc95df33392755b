"""Draining a worker: it gives up all its partitions and takes no more."""

from __future__ import annotations

from typing import Literal, cast

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

Answer = Literal["ok", "already", "unknown"]


def drain(client: redis.Redis, names: Names, node: str, *, by: str) -> Answer:
    """Make a worker give up its partitions after its current batch. It takes no more until `undrain`, or until it stops.

    A worker started later with the same node name is not drained.
    """
    return _set_draining(client, names, node, "drain", by)


def undrain(client: redis.Redis, names: Names, node: str, *, by: str) -> Answer:
    """Let the worker take its share of the partitions again."""
    return _set_draining(client, names, node, "undrain", by)


def _set_draining(client: redis.Redis, names: Names, node: str, action: str, by: str) -> Answer:
    answer: bytes = script("drain").run(
        client,
        [names.workers, names.draining, names.audit],
        [node, action, names.changed, *Audit(client, names).words(by, action, {"node": node})],
    )
    return cast(Answer, answer.decode())
