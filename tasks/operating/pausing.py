"""Pausing partitions: a paused one keeps its owner, its messages and its parked keys, and nothing of it is applied."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import redis

from celery_partitions.operating.audit import Audit
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

#: For whom a unit is paused: an operator, or a failure policy, which decide; or an export, which undoes nothing of theirs.
For = Literal["1", "export"]
OPERATORS: For = "1"
EXPORT: For = "export"


def pause(client: redis.Redis, names: Names, units: Sequence[str], *, by: str, whose: For = OPERATORS) -> list[str]:
    """Pause units; the batch under way is the last. Returns those that were not paused before, or only for an export."""
    return _set_paused(client, names, units, True, by, whose)


def resume(client: redis.Redis, names: Names, units: Sequence[str], *, by: str, whose: For = OPERATORS) -> list[str]:
    """Let paused units go on, at once. Returns those that were paused; for an export only what still is so for it."""
    return _set_paused(client, names, units, False, by, whose)


def _set_paused(
    client: redis.Redis, names: Names, units: Sequence[str], paused: bool, by: str, whose: For
) -> list[str]:
    queues = [names.queue_name(unit) for unit in units]
    words = Audit(client, names).words(by, "pause" if paused else "resume", {"queues": queues})
    changed: list[int] = script("pause").run(
        client,
        [names.audit, *(names.facts(unit) for unit in units)],
        ["pause" if paused else "resume", whose, names.changed, *words],
    )
    return [units[number - 1] for number in changed]
