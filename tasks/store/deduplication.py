"""The ids of messages seen, for computations that drop duplicates: two sets of ids, a young one and an old one.

Ids go into the young set, in the commit that takes their messages. When the young set is a window old, or half as full as it
may be, it becomes the old one and the old one is gone: an id is known for one to two windows, or for as long as
`PARTITIONS_DEDUPLICATE_IDS` others have not come. Only the lease's holder reads and writes them, so what was read holds until its commit.
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
    """What is known of the ids of one computation in one partition."""

    computation: Computation
    #: Of the ids asked for, those seen.
    ids: frozenset[str]
    #: How many ids the young set holds, and when it was begun (server's seconds; None: there is none).
    young: int
    since: float | None


def read_seen_ids(
    client: redis.Redis, names: Names, partition: str, wanted: Mapping[str, tuple[Computation, Sequence[str]]]
) -> dict[str, SeenIds]:
    """Which ids were seen, by computation name, in one round trip."""
    with client.pipeline(transaction=False) as pipe:
        for name, (_, ids) in wanted.items():
            spelled = list(map(normalize_id, ids))
            pipe.smismember(names.deduplication(partition, name, "young"), spelled)
            pipe.smismember(names.deduplication(partition, name, "old"), spelled)
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
    """What makes `fresh` ids seen; `limit`: ids that may be remembered for one computation."""
    for name, ids in fresh.items():
        before = seen[name]
        window = before.computation.deduplicate_seconds or 0.0
        is_full = before.young + len(ids) > max(limit // 2, 1)
        begins = before.since is None or now - before.since >= window or is_full
        yield RememberIds(name, ids, window, begins, replaces=begins and before.young > 0)
