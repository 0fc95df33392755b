"""Workers' measurements in Redis: a hash per group, with one partition's cumulative values as JSON in each field; the same for each
computation; and each partition's last commits."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from types import MappingProxyType
from typing import Any, cast

import redis

from celery_partitions.store.names import Names
from celery_partitions.store.recent_commits import MAX_KEPT, RecentCommit, dump_commit, load_commits
from celery_partitions.store.scripts import script
from celery_partitions.store.telemetry import (
    SINK,
    ComputationMeasurements,
    Measurements,
    dump_measurements,
    load_measurements,
)


def add_measurements(
    client: redis.Redis,
    names: Names,
    fresh: Mapping[str, Measurements],
    commits: Mapping[str, Collection[RecentCommit]] = MappingProxyType({}),
    computations: Mapping[str, ComputationMeasurements] = MappingProxyType({}),
) -> None:
    """Add what was measured since the last call, for all partitions together. If the reply is lost, it may or may not have been added.

    `commits`: the last commits of each of those partitions, oldest first.
    """
    keys: list[str] = [names.measurements, names.computations]
    words: list[Any] = [len(computations)]
    for computation, measured in computations.items():
        words += [computation, dump_measurements(measured)]
    for partition, one in fresh.items():
        keys.append(names.commits(partition))
        recent = [dump_commit(commit) for commit in commits.get(partition, ())]
        words += [partition, dump_measurements(one), len(recent), *recent]
    script("measure").run(client, keys, [MAX_KEPT, *words])


def request_measurements(pipe: redis.client.Pipeline, names: Names, all_partitions: Sequence[str]) -> None:
    """Add the request to a pipeline. It has one answer."""
    pipe.hmget(names.measurements, list(all_partitions))


def measurements_in(answer: Any, all_partitions: Sequence[str]) -> dict[str, Measurements]:
    """The answer to `request_measurements`, by partition. All empty if the server refused the request."""
    texts = answer if isinstance(answer, list) else [None] * len(all_partitions)
    return {partition: load_measurements(text) for partition, text in zip(all_partitions, texts, strict=True)}


def read_recent_commits(client: redis.Redis, names: Names, partition: str) -> list[RecentCommit]:
    """The partition's last measured commits, newest first, at most `MAX_KEPT`."""
    return load_commits(cast(list[bytes], client.lrange(names.commits(partition), 0, MAX_KEPT - 1)))


def read_computations(client: redis.Redis, names: Names) -> dict[str, ComputationMeasurements]:
    """What workers measured of each computation that ever ran. Empty if the key has another type."""
    return {name: found for name, found in _read_computations(client, names).items() if not name.startswith(SINK)}


def read_pushed(client: redis.Redis, names: Names) -> dict[str, int]:
    """How many outputs workers pushed into each Redis list and stream."""
    return {name.removeprefix(SINK): found.processed for name, found in _read_computations(client, names).items() if name.startswith(SINK)}


def _read_computations(client: redis.Redis, names: Names) -> dict[str, ComputationMeasurements]:
    try:
        rows = cast(Mapping[bytes, bytes], client.hgetall(names.computations))
    except redis.ResponseError:
        return {}
    return {name.decode("utf-8", "replace"): load_measurements(text, ComputationMeasurements) for name, text in rows.items()}
