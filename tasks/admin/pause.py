"""Pausing partitions. A paused partition keeps its owner, messages and parked keys, but no message is processed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

#: Who paused a partition: an operator or a failure policy ("1"), or an export, which never undoes theirs.
For = Literal["1", "export"]
OPERATORS: For = "1"
EXPORT: For = "export"


def pause(client: redis.Redis, names: Names, partitions: Sequence[str], *, by: str, whose: For = OPERATORS) -> list[str]:
    """Pause partitions after their current batch. Returns those that were not paused before, or only by an export."""
    return _set_paused(client, names, partitions, True, by, whose)


def resume(client: redis.Redis, names: Names, partitions: Sequence[str], *, by: str, whose: For = OPERATORS) -> list[str]:
    """Resume paused partitions immediately. Returns those that were paused; an export resumes only those that it paused itself."""
    return _set_paused(client, names, partitions, False, by, whose)


def _set_paused(
    client: redis.Redis, names: Names, partitions: Sequence[str], paused: bool, by: str, whose: For
) -> list[str]:
    queues = [names.queue_name(partition) for partition in partitions]
    words = Audit(client, names).words(by, "pause" if paused else "resume", {"queues": queues})
    # On several servers, one call for each partition.
    together = [[one] for one in partitions] if names.is_spread else [partitions]
    changed: list[str] = []
    for some in together:
        keys = [names.audit_of(some[0]) if some else names.audit, *map(names.meta, some)]
        numbers: list[int] = script("pause").run(client, keys, ["pause" if paused else "resume", whose, names.changed, *words])
        changed += [some[number - 1] for number in numbers]
    return changed
