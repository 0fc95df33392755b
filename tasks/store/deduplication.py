"""The remembered message ids of computations with deduplication: a young set and an old set.

The commit that takes a message adds its id to the young set. When the young set is one window old, or holds half of
`PARTITIONS_DEDUPLICATE_IDS`, it replaces the old set. So an id is remembered for one to two windows, unless too many others come.
Only the lease's holder reads and writes the sets, so what it read stays true until its commit.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.deduplication import normalize_id
from celery_partitions.model.effects import RememberIds
from celery_partitions.store.names import Names


@dataclass(frozen=True, slots=True)
class SeenIds:
    """The remembered ids of one computation in one partition."""

    computation: Computation
    #: The requested ids that were seen before.
    ids: frozenset[str]
    #: The size of the young set, and when it was started (seconds, server clock; None: there is no young set).
    young: int
    since: float | None


def read_seen_ids(
    client: redis.Redis, names: Names, partition: str, wanted: Mapping[str, tuple[Computation, Sequence[str]]]
) -> dict[str, SeenIds]:
    """Look up which ids were seen, by computation name, in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for name, (_, ids) in wanted.items():
            encoded = list(map(normalize_id, ids))
            pipe.smismember(names.deduplication(partition, name, "young"), encoded)
            pipe.smismember(names.deduplication(partition, name, "old"), encoded)
            pipe.scard(names.deduplication(partition, name, "young"))
            pipe.hget(names.meta(partition), f"seen:{name}")
        rows = iter(pipe.execute())
    found = {}
    for name, (computation, ids) in wanted.items():
        young, old, count, since = next(rows), next(rows), next(rows), next(rows)
        seen: frozenset[str] = frozenset()
        if 1 in young or 1 in old:
            seen = frozenset(one for one, new, before in zip(ids, young, old, strict=True) if new or before)
        found[name] = SeenIds(computation, seen, count, None if since is None else int(since) / 1000)
    return found


def remember(seen: Mapping[str, SeenIds], fresh: Mapping[str, Sequence[str]], now: float, limit: int) -> Iterator[RememberIds]:
    """The effects that remember the `fresh` ids. `limit`: the maximum number of ids remembered for one computation."""
    for name, ids in fresh.items():
        before = seen[name]
        window = before.computation.deduplicate_seconds or 0.0
        is_full = before.young + len(ids) > max(limit // 2, 1)
        begins = before.since is None or now - before.since >= window or is_full
        yield RememberIds(name, ids, window, begins, replaces=begins and before.young > 0)
