"""The status of a group."""

from __future__ import annotations

import redis

from celery_partitions.admin.status import PartitionStatus, node_name, read_status, worker_id
from celery_partitions.store.leases import balance, remember_computations
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.topology import agree_on_topology


def of(client: redis.Redis, names: Names, partition: str) -> PartitionStatus:
    return {status.queue: status for status in read_status(client, names, 3)}[names.queue_name(partition)]


def test_an_untouched_group_has_every_partition_in_order_then_the_ingress_all_idle(
    client: redis.Redis, names: Names
) -> None:
    found = read_status(client, names, 11)
    assert [one.queue for one in found] == [f"partition.{number}" for number in range(11)] + ["partition"]
    assert {(one.owner, one.length, one.processed, one.paused) for one in found} == {(None, 0, 0, False)}
    assert not client.keys()


def test_everything_is_counted(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 3)
    remember_computations(client, names, ["one", "two"])
    client.lpush("partition.1", "a", "b")
    client.lpush("partition.1\x06\x163", "c")
    client.lpush("partition.1\x06\x169", "d")
    client.hset(names.meta("1"), mapping={"processed": 77, "paused": 1, "commit_number": 9})
    client.hset(names.states("1", "one"), mapping={"k": "1", "l": "2"})
    client.hset(names.states("1", "two"), mapping={"k": "1"})
    client.hset(names.states("1", "unknown"), mapping={"k": "1"})
    client.hset(names.parked("1"), "k", "{}")
    client.hset(names.dead("1"), mapping={"1-0-0": "{}", "1-0-1": "{}"})
    client.zadd(names.delayed("1"), {"x": 1, "y": 2, "z": 3})
    balance(client, names, worker_id("node@host", "u"), lease_seconds=60, partitions=3, pins=["1"])
    assert of(client, names, "1") == PartitionStatus(
        "partition.1", "node@host", length=4, processed=77, keys=3, parked=1, dead=2, paused=True, delayed=3
    )
    for partition in ("0", "2", INGRESS):
        other = of(client, names, partition)
        assert other == PartitionStatus(names.queue_name(partition), None, 0, 0, 0, 0, 0, paused=False, delayed=0)


def test_the_ingress_is_counted_like_a_partition(client: redis.Redis, names: Names) -> None:
    client.lpush("partition", "a")
    client.hset(names.dead(INGRESS), "ingress-0-0", "{}")
    client.hset(names.meta(INGRESS), "processed", 0)
    found = of(client, names, INGRESS)
    assert (found.length, found.dead, found.processed) == (1, 1, 0)


def test_a_worker_is_an_owner_only_while_its_lease_has_not_ended(client: redis.Redis, names: Names) -> None:
    balance(client, names, worker_id("celery@host", "u"), lease_seconds=60, partitions=3)
    assert of(client, names, "0").owner == "celery@host"
    client.zadd(names.workers, {"celery@host/u": 1})
    assert of(client, names, "0").owner is None
    client.zrem(names.workers, "celery@host/u")
    assert of(client, names, "0").owner is None


def test_a_key_of_the_wrong_type_counts_as_zero_and_hides_nothing_else(client: redis.Redis, names: Names) -> None:
    client.lpush("partition.0", "a")
    for name in (names.meta("0"), names.parked("0"), names.delayed("0"), "partition.0\x06\x166"):
        client.set(name, "text")
    found = of(client, names, "0")
    assert (found.length, found.processed, found.parked, found.delayed, found.paused) == (1, 0, 0, 0, False)
    client.lpush("partition.1", "a")
    assert of(client, names, "1").length == 1


def test_a_prefix_keeps_two_applications_in_one_database_apart(client: redis.Redis, names: Names) -> None:
    prefixed = Names("partition", prefix="shop:")
    client.lpush(prefixed.queue("0"), "a")
    found = read_status(client, prefixed, 1)
    assert [(one.queue, one.length) for one in found] == [("partition.0", 1), ("partition", 0)]
    assert of(client, names, "0").length == 0


def test_a_node_name_can_be_read_from_a_worker_id() -> None:
    assert node_name(worker_id("a/b@host", "5-77")) == "a/b@host"
