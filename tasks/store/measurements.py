"""What workers measured, in Redis: one hash for a group, a unit's cumulative values as JSON in each field; and a unit's last commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import redis

from celery_partitions.model.measurements import Measurements, dump_measurements, load_measurements
from celery_partitions.model.recent_commits import MOST_KEPT, RecentCommit, dump_commit, load_commits
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script


def add_measurements(
    client: redis.Redis,
    names: Names,
    fresh: Mapping[str, Measurements],
    commits: Mapping[str, Collection[RecentCommit]] = MappingProxyType({}),
) -> None:
    """Add what was measured since the last call, of all units in one call. After a lost reply it may have been added or not.

    `commits`: the last ones of each of those units, oldest first.
    """
    keys, words = [names.measurements], []
    for unit, one in fresh.items():
        keys.append(names.commits(unit))
        recent = [dump_commit(commit) for commit in commits.get(unit, ())]
        words += [unit, dump_measurements(one), len(recent), *recent]
    script("measure").run(client, keys, [MOST_KEPT, *words])


def ask_measurements(pipe: redis.client.Pipeline, names: Names, all_units: Sequence[str]) -> None:
    """Put the question into a pipeline: one answer."""
    pipe.hmget(names.measurements, list(all_units))


def measurements_in(answer: Any, all_units: Sequence[str]) -> dict[str, Measurements]:
    """The answer to `ask_measurements`, of every unit; nothing measured where it is a refusal."""
    texts = answer if isinstance(answer, list) else [None] * len(all_units)
    return {unit: load_measurements(text) for unit, text in zip(all_units, texts, strict=True)}


def read_recent_commits(client: redis.Redis, names: Names, unit: str) -> list[RecentCommit]:
    """The last commits of a unit, newest first: those that were measured, at most `MOST_KEPT`."""
    return load_commits(cast(list[bytes], client.lrange(names.commits(unit), 0, MOST_KEPT - 1)))
