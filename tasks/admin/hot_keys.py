"""Hot keys: the keys with the most messages at the head of the queues. A sample, bounded in messages and bytes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import cast

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.message_key import key_in
from celery_partitions.store.names import Names

#: Messages read from a queue in one round trip.
PAGE = 200
#: Reading from a queue stops after the page that exceeds this many bytes.
MAX_BYTES = 4_000_000


@dataclass(frozen=True, slots=True)
class HotKey:
    """A key that has messages in the sample."""

    key: str
    partition: int
    #: Its messages in the sample.
    messages: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The size of the sample, and the keys found in it."""

    #: Messages read, of all computations.
    sampled: int
    #: Messages waiting in all partitions' queues.
    waiting: int
    #: The most frequent first.
    keys: list[HotKey]


def hot_keys(
    client: redis.Redis,
    names: Names,
    partitions: int,
    computations: Mapping[str, Computation],
    name: str,
    *,
    per_partition: int,
    limit: int,
) -> Sample:
    """The keys of the computation `name` with the most messages among the oldest `per_partition` of each queue."""
    counts: Counter[tuple[str, int]] = Counter()
    sampled = waiting = 0
    for partition in range(partitions):
        queue = names.queue(str(partition))
        waiting += client.llen(queue)
        for raw in oldest_of(client, queue, per_partition):
            sampled += 1
            found = key_in(raw, computations)
            if found is not None and found[0] == name:
                counts[found[1], partition] += 1
    keys = [HotKey(key, partition, count) for (key, partition), count in counts.most_common(limit)]
    return Sample(sampled, waiting, keys)


def oldest_of(client: redis.Redis, queue: str, limit: int) -> Iterator[bytes]:
    """A queue's `limit` oldest messages, oldest first; fewer if they are large."""
    start = size = 0
    while start < limit and size < MAX_BYTES:
        page = min(PAGE, limit - start)
        raws = cast(list[bytes], client.lrange(queue, -start - page, -start - 1))
        yield from raws[::-1]
        size += sum(map(len, raws))
        start += page
        if len(raws) < page:
            return
