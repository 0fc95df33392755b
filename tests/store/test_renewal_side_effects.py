"""Other properties of a renewal: it works on a full server, and moves messages from priority lists into the queue."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import redis

from celery_partitions.store.leases import balance, leases_of
from celery_partitions.store.names import PRIORITY_SUFFIXES, Names
from tests.support.server import RedisServer


def test_a_lease_is_renewed_on_a_full_server(server_factory: Callable[..., RedisServer]) -> None:
    names = Names("partition")
    with server_factory().client() as client:
        before = balance(client, names, "a/1", lease_seconds=60, partitions=2)
        client.config_set("maxmemory-policy", "noeviction")
        client.config_set("maxmemory", "1mb")
        with pytest.raises(redis.OutOfMemoryError):
            client.set("more", "x")
        assert balance(client, names, "a/1", lease_seconds=60, partitions=2).owned == before.owned


def test_a_renewal_moves_prioritised_messages_into_the_queue_in_order(client: redis.Redis) -> None:
    names = Names("partition")
    for partition in ("0", "ingress"):
        client.lpush(names.queue(partition) + PRIORITY_SUFFIXES[0], b"first", b"second")
    balance(client, names, "a/1", lease_seconds=60, partitions=1)
    assert [client.lrange(names.queue(partition), 0, -1) for partition in ("0", "ingress")] == [[b"second", b"first"]] * 2


@pytest.mark.parametrize("name", ["partition.0\x06\x163", "{partition}:policies"])
def test_a_foreign_value_under_a_key_of_one_partition_does_not_affect_the_shares(client: redis.Redis, names: Names, name: str) -> None:
    client.set(name, "foreign")
    share = balance(client, names, "one", lease_seconds=60, partitions=2)
    assert share.owned.keys() == {"0", "1", "ingress"}
    assert share.owned == leases_of(client, names, "one")
    assert (share.policies, share.paused, share.edit_versions["0"]) == ({}, frozenset(), 0)


def test_a_partition_with_a_foreign_value_in_place_of_its_meta_has_no_owner(client: redis.Redis, names: Names) -> None:
    client.set("{partition.0}:meta", "foreign")
    share = balance(client, names, "one", lease_seconds=60, partitions=2)
    assert share.owned.keys() == {"1", "ingress"}
    assert share.owned == leases_of(client, names, "one")
    assert "{partition.0}:meta: WRONGTYPE" in share.faults["0"]
    client.delete("{partition.0}:meta")
    assert balance(client, names, "one", lease_seconds=60, partitions=2).owned.keys() == {"0", "1", "ingress"}
