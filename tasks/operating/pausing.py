"""Pausing partitions: a paused one keeps its owner, its messages and its parked keys, and nothing of it is applied."""

from __future__ import annotations

from collections.abc import Sequence

import redis

from tasks.operating.audit import Audit
from tasks.store.names import Names
from tasks.store.scripts import script


def pause(client: redis.Redis, names: Names, units: Sequence[str], *, by: str) -> list[str]:
    """Pause units; the batch under way is the last. Returns those that were not paused before."""
    return _set_paused(client, names, units, True, by)


def resume(client: redis.Redis, names: Names, units: Sequence[str], *, by: str) -> list[str]:
    """Let paused units go on, at once. Returns those that were paused."""
    return _set_paused(client, names, units, False, by)


def _set_paused(client: redis.Redis, names: Names, units: Sequence[str], paused: bool, by: str) -> list[str]:
    queues = [names.queue_name(unit) for unit in units]
    words = Audit(client, names).words(by, "pause" if paused else "resume", {"queues": queues})
    changed: list[int] = script("pause").run(
        client,
        [names.audit, *(names.facts(unit) for unit in units)],
        ["pause" if paused else "resume", names.changed, *words],
    )
    return [units[number - 1] for number in changed]
