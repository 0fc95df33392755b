"""Which server a key is on, and what a PARTITIONS_URL says."""

from __future__ import annotations

import pytest
from redis.crc import key_slot
from redis.exceptions import ResponseError

from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.slots import Address, Places, fixed_slots, parse_servers, slots_in


def test_all_keys_of_a_partition_share_a_slot_and_the_others_are_on_the_control_server() -> None:
    names = Names("partition", "shop:", is_spread=True)
    places = Places(names.root)
    keys = [
        names.queue("3"), names.meta("3"), names.states("3", "x"), names.mailbox("3", "}{"), names.audit_of("3"), *names.priority_lists("3"),
    ]  # fmt: skip
    assert {places.slot(key) for key in keys} == {key_slot(b"shop:partition.3")}
    for key in (names.queue(INGRESS), names.meta(INGRESS), names.commits("3"), names.owners, "celery", "celery-task-meta-1", "partition.3", "shop:partition.03"):
        assert places.slot(key) is None


def test_a_hash_tag_of_ones_own_is_refused() -> None:
    with pytest.raises(SetupError, match="one slot"):
        Names("partition", "{shop}:", is_spread=True)


def test_the_slot_of_a_command() -> None:
    places = Places("partition")
    slot = key_slot(b"partition.3")
    assert places.slot_of_command(("EVALSHA", "digest", 2, "{partition.3}:meta", "partition.3", "word")) == slot
    assert places.slot_of_command(("XADD", "{partition.3}:audit", "*")) == slot
    assert places.slot_of_command(("MEMORY USAGE", "{partition.3}:meta")) == slot
    with pytest.raises(ResponseError, match="CROSSSLOT"):
        places.slot_of_command(("EVAL", "text", 2, "{partition.3}:meta", "{partition.4}:meta"))
    for words in (("EVAL", "return 1", 0), ("TIME",), ("SCRIPT LOAD", "text"), ("PUBLISH", "{partition}:changed", "")):
        assert places.slot_of_command(words) is None


def test_urls() -> None:
    found = parse_servers("rediss+cluster://user:p%40ss,word@a,[::1]:7001?ssl_cert_reqs=none")
    assert found.is_cluster
    assert [found.of(one) for one in found.addresses] == [
        "rediss://user:p%40ss,word@a:6379?ssl_cert_reqs=none",
        "rediss://user:p%40ss,word@[::1]:7001?ssl_cert_reqs=none",
    ]
    plain = parse_servers("redis://a:1,b:2/3")
    assert (plain.is_cluster, plain.of(plain.addresses[1])) == (False, "redis://b:2/3")
    for url in ("http://a", "redis+cluster://", "redis+cluster://a/2", "redis://a,a", "redis://a:x"):
        with pytest.raises(ValueError, match=r"must begin|missing|database|twice|host:port"):
            parse_servers(url)


def test_every_slot_has_a_server() -> None:
    a, b = Address("a", 1), Address("b", 2)
    owners = fixed_slots([a, b])
    assert (owners[0], owners[8191], owners[8192], owners[16383]) == (a, a, b, b)
    found = slots_in([[0, 1, [b"", 7000, b"id"]], [3, 16383, ["b", 2, b"id"], ["c", 3, b"id"]]], Address("asked", 9))
    assert (found[1], found[2], found[3]) == (Address("asked", 7000), None, b)
