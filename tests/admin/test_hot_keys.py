"""Hot keys: a bounded sample from the heads of the queues."""

from __future__ import annotations

import redis

from celery_partitions.admin.hot_keys import HotKey, Sample, hot_keys
from celery_partitions.model.keys import partition_of
from celery_partitions.store.names import Names
from tests.admin.exported_group import COMPUTATIONS, message


def sample(client: redis.Redis, per_partition: int = 1000, limit: int = 20, name: str = "totals") -> Sample:
    return hot_keys(client, Names("partition"), 4, COMPUTATIONS, name, per_partition=per_partition, limit=limit)


def put(client: redis.Redis, key: str, count: int) -> None:
    client.lpush(f"partition.{partition_of(key, 4)}", *(message(key, number) for number in range(count)))


def test_keys_with_the_most_messages_come_first(client: redis.Redis) -> None:
    put(client, "a", 5)
    put(client, "b", 300)
    put(client, "é", 7)
    client.lpush("partition.1", b"no message", message("a", 1).replace(b"totals", b"unknown"))
    found = sample(client, limit=2)
    assert found.keys == [HotKey("b", partition_of("b", 4), 300), HotKey("é", partition_of("é", 4), 7)]
    assert (found.sampled, found.waiting) == (314, 314)
    assert sample(client, name="other").keys == []


def test_only_the_oldest_messages_are_sampled(client: redis.Redis) -> None:
    put(client, "a", 250)
    young = next(f"k{number}" for number in range(99) if partition_of(f"k{number}", 4) == partition_of("a", 4))
    put(client, young, 1000)
    found = sample(client, per_partition=250)
    assert (found.keys, found.sampled, found.waiting) == ([HotKey("a", partition_of("a", 4), 250)], 250, 1250)


def test_huge_messages_are_not_all_read(client: redis.Redis) -> None:
    client.lpush("partition.1", *[b"x" * 20_000] * 1000)
    assert 200 <= sample(client).sampled < 500


def test_an_empty_queue_has_no_hot_key(client: redis.Redis) -> None:
    assert sample(client) == Sample(0, 0, [])
