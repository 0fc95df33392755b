"""Draining a worker: it gives all its partitions up and takes no more."""

from __future__ import annotations

from typing import Literal, cast

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

Answer = Literal["ok", "already", "unknown"]


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
