"""REPLY and CHORD, the words of commit.lua that store a result and count a chord's part."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.results import ChordKeys, chord_part, reply
from tests.store.declared import commit_of, fill, queued

QUEUE = "partition.2"
KEY = b"celery-task-meta-x"
SUCCESS = b'{"status": "SUCCESS", "result": 1}'
RETRY = b'{"status": "RETRY", "result": null}'

KEYS = ChordKeys(*(b"g" + suffix for suffix in (b".j", b".t", b".s", b".d", b"", b".c")))


@pytest.fixture
def do(store: CommitStore, lease: Lease) -> Any:
    """Commit some commands."""

    def commit(*commands: list[Any]) -> str:
        commit_number = store.peek(lease).commit_number
        return store.send(commit_of(lease, [], commit_number=commit_number, commands=list(commands))).status

    return commit


def part(member: str, score: int | str = 0, **other: Any) -> list[Any]:
    options: dict[str, Any] = {
        "result": f"r {member}",
        "ordered": True,
        "expires_seconds": 60,
        "group_expires_seconds": 120,
        "token": "ours",
        "queue": QUEUE,
        "start": b"start",
    }
    return chord_part(KEYS, member=member, score=score, **{**options, **other})


def test_a_result_is_stored_for_its_time_and_published(do: Any, client: redis.Redis) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(KEY)
        pubsub.get_message(timeout=1)
        assert do(reply(KEY, SUCCESS, 100)) == "ok"
        heard = pubsub.get_message(timeout=5)
    assert heard is not None
    assert heard["data"] == SUCCESS
    assert client.get(KEY) == SUCCESS
    assert 90 < client.ttl(KEY) <= 100  # type: ignore[operator]


def test_a_result_may_be_for_ever(do: Any, client: redis.Redis) -> None:
    do(reply(KEY, SUCCESS, None))
    assert client.ttl(KEY) == -1


def test_a_success_stays_and_everything_else_is_told_over(do: Any, client: redis.Redis) -> None:
    do(reply(KEY, RETRY, 100))
    do(reply(KEY, SUCCESS, 100))
    do(reply(KEY, RETRY, 100))
    assert client.get(KEY) == SUCCESS


def test_the_last_part_pushes_the_start_to_the_head_of_the_queue_once(
    do: Any, store: CommitStore, client: redis.Redis
) -> None:
    client.set("g.s", 2)
    fill(store, QUEUE, [b"m"])
    do(part("a", 1), part("a", 1))
    assert queued(store, QUEUE) == [b"m"]
    do(part("b", 0))
    do(part("b", 0), part("c", 2))
    assert queued(store, QUEUE)[0] == b"start"
    assert queued(store, QUEUE).count(b"start") == 1
    assert client.zrange("g.j", 0, -1)[:2] == [b"r b", b"r a"]  # type: ignore[index]
    assert client.get("g.c") == b"ours"
    assert all(0 < client.ttl(f"g{one}") <= 60 for one in (".j", ".s", ".d", ".c"))  # type: ignore[operator]


def test_parts_without_an_order(do: Any, store: CommitStore, client: redis.Redis) -> None:
    client.set("g.s", 1)
    client.set("g.t", 1)
    do(part("a", "+inf", ordered=False))
    do(part("b", "+inf", ordered=False))
    assert client.lrange("g.j", 0, -1) == [b"r a", b"r b"]
    assert queued(store, QUEUE) == [b"start"]


@pytest.mark.parametrize("claim", [b"a stock worker's", b"done"])
def test_a_chord_that_somebody_starts_or_has_started_is_left(
    do: Any, store: CommitStore, client: redis.Redis, claim: bytes
) -> None:
    client.set("g.s", 1)
    client.set("g.c", claim)
    assert do(part("a")) == "ok"
    assert queued(store, QUEUE) == []
    assert client.get("g.c") == claim
    assert client.exists("g.j") == (claim != b"done")


@pytest.mark.parametrize("suffix", [".j", ".t", ".s", ".d", ".c"])
def test_a_foreign_value_under_one_of_its_names_keeps_no_commit_back(
    do: Any, store: CommitStore, client: redis.Redis, suffix: str
) -> None:
    client.set("g.s", 1)
    client.delete(f"g{suffix}")
    client.xadd(f"g{suffix}", {"foreign": "1"})
    assert do(part("a"), ["HSET", "{partition.2}:state:x", "k", "v"]) == "ok"
    assert client.hget("{partition.2}:state:x", "k") == b"v"


def test_what_the_user_may_not_touch_is_refused_before_anything_is_written(
    redis_url: str, lease: Lease, store: CommitStore, client: redis.Redis
) -> None:
    """A queue that a message named; results are left out instead."""
    client.execute_command("ACL", "SETUSER", "narrow", "on", ">x", "~partition*", "~{partition*", "&{partition*", "+@all")
    fill(store, QUEUE, [b"m"])
    with redis.Redis.from_url(redis_url, username="narrow", password="x") as user:
        narrow = CommitStore(user, store.names, batch_messages=100, batch_bytes=1000)
        answer = narrow.send(commit_of(lease, [b"m"], commands=[["LPUSH", "foreign", "x"]]))
        assert (answer.status, answer.culprit, queued(store, QUEUE)) == ("wrongtype", "foreign", [b"m"])
        assert narrow.send(commit_of(lease, [b"m"], commands=[reply(KEY, SUCCESS, 100), part("a")])).status == "ok"
    client.execute_command("ACL", "DELUSER", "narrow")
    assert not client.exists(KEY)
