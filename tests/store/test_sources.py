"""The answers of the scripts of a source's process: who holds the lease, what was written, and what is refused."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.store.names import Names
from celery_partitions.store.sources import hold_source, leave_source, make_group, push_from_source, read_stream

NAMES = Names("partition")
KEY = NAMES.source("numbers")


def push(client: redis.Redis, token: int | None, number: int, *raws: bytes, key: str = KEY, ends: bool = False) -> str:
    return push_from_source(client, key, token, number, b"at %d" % number, [["LPUSH", "partition.0", *raws]], lease_seconds=5, ends=ends)[0]


def test_one_process_holds_the_lease_and_another_takes_over_when_it_leaves(client: redis.Redis) -> None:
    first = hold_source(client, NAMES, "numbers", "one", 5)
    assert (first.number, first.position, first.ended) == (0, b"", False)
    assert hold_source(client, NAMES, "numbers", "one", 5).token == first.token
    other = hold_source(client, NAMES, "numbers", "two", 5)
    assert other.token == 0
    assert 0 < other.left_seconds <= 5
    assert push(client, first.token, 0, b"a") == "ok"
    assert leave_source(client, NAMES, "numbers", first.token)
    second = hold_source(client, NAMES, "numbers", "two", 5)
    assert second.token > first.token
    assert (second.number, second.position) == (1, b"at 0")
    assert not leave_source(client, NAMES, "numbers", first.token)


def test_a_lease_that_has_ended_is_free_and_its_holder_is_fenced(client: redis.Redis) -> None:
    first = hold_source(client, NAMES, "numbers", "one", 0)
    second = hold_source(client, NAMES, "numbers", "two", 5)
    assert second.token > first.token
    assert push(client, first.token, 0, b"late") == "fenced"
    assert push(client, second.token, 0, b"a", ends=True) == "ok"
    assert client.lrange("partition.0", 0, -1) == [b"a"]
    assert hold_source(client, NAMES, "numbers", "two", 5).ended


def test_a_push_sent_again_changes_nothing_and_one_with_a_wrong_number_is_refused(client: redis.Redis) -> None:
    token = hold_source(client, NAMES, "numbers", "one", 5).token
    assert push(client, token, 0, b"a") == "ok"
    assert push(client, token, 0, b"a") == "already"
    assert push(client, token, 5, b"b") == "moved"
    assert push(client, token, 1, b"b") == "ok"
    assert client.lrange("partition.0", 0, -1) == [b"b", b"a"]


def test_without_a_lease_each_process_has_its_own_counter(client: redis.Redis) -> None:
    """The server may lose what a process has pushed. The process continues."""
    key = NAMES.source("numbers", "run")
    assert push(client, None, 0, b"a", key=key) == "ok"
    assert push(client, None, 0, b"a", key=key) == "already"
    client.delete(key)
    assert push(client, None, 7, b"b", key=key) == "ok"
    assert push(client, None, 7, b"b", key=key) == "already"
    assert 0 < client.ttl(key) <= 5


def test_a_push_to_a_key_of_another_type_is_refused_completely(client: redis.Redis) -> None:
    token = hold_source(client, NAMES, "numbers", "one", 5).token
    client.set("partition.1", "text")
    commands = [["LPUSH", "partition.0", b"a"], ["LPUSH", "partition.1", b"b"]]
    assert push_from_source(client, KEY, token, 0, b"", commands, lease_seconds=5) == ("wrongtype", "partition.1")
    assert not client.exists("partition.0")
    assert hold_source(client, NAMES, "numbers", "one", 5).number == 0


def test_only_the_holder_of_the_lease_reads_a_stream(client: redis.Redis) -> None:
    make_group(client, "in", "numbers")
    make_group(client, "in", "numbers")
    token = hold_source(client, NAMES, "numbers", "one", 5).token
    assert read_stream(client, NAMES, "numbers", token, "in", 10, b">") == []
    entry = client.xadd("in", {"n": "1"})
    assert read_stream(client, NAMES, "numbers", token - 1, "in", 10, b">") is None
    assert read_stream(client, NAMES, "numbers", token, "in", 10, b">") == [(entry, [b"n", b"1"])]
    assert read_stream(client, NAMES, "numbers", token, "in", 10, b"0") == [(entry, [b"n", b"1"])]
    client.xdel("in", entry)
    assert read_stream(client, NAMES, "numbers", token, "in", 10, b"0") == [(entry, None)]
    client.delete("in")
    with pytest.raises(redis.ResponseError, match="NOGROUP"):
        read_stream(client, NAMES, "numbers", token, "in", 10, b">")


def test_the_group_of_a_sink_is_not_a_partition_of_another_group() -> None:
    groups = [NAMES.sink_group(name) for name in ("out", "out.0", "out%2E0", "out.x", "127.0.0.1:7002")]
    assert groups[0] == "partition.sink.out"
    assert groups[-1] == "partition.sink.127.0.0.1:7002"
    queues = [queue for group in groups for queue in (Names(group).queue("ingress"), Names(group).queue("0"))]
    assert len(set(queues)) == len(queues)
