"""The other effects of an outcome: results and follow-ups, as Celery stores and sends them."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_partitions.model.effects import DeleteResultKeys, FollowUp, Push, Reply, Requeue, SetResultKey
from celery_partitions.store.commands import commands_of
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from tests.store.declared import commit_of, fill, queued

QUEUE = "partition.2"
KEY = b"celery-task-meta-x"
SUCCESS = b'{"status": "SUCCESS", "result": 1}'
RETRY = b'{"status": "RETRY", "result": null}'

@pytest.fixture
def do(store: CommitStore, lease: Lease) -> Any:
    """A function that commits effects."""

    def commit(*effects: Any) -> str:
        commit_number = store.peek(lease).commit_number
        commands = commands_of(effects, store.names, lease.partition, 0, 0.0)
        return store.send(commit_of(lease, [], commit_number=commit_number, commands=commands)).status

    return commit


def test_a_result_is_stored_until_it_expires_and_published(do: Any, client: redis.Redis) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as pubsub:
        pubsub.subscribe(KEY)
        pubsub.get_message(timeout=1)
        assert do(Reply(KEY, SUCCESS, 100)) == "ok"
        message = pubsub.get_message(timeout=60)
    assert message is not None
    assert message["data"] == SUCCESS
    assert client.get(KEY) == SUCCESS
    assert 90 < client.ttl(KEY) <= 100  # type: ignore[operator]


def test_a_result_may_never_expire(do: Any, client: redis.Redis) -> None:
    do(Reply(KEY, SUCCESS, None))
    assert client.ttl(KEY) == -1


def test_a_success_is_kept_and_other_results_are_overwritten(do: Any, client: redis.Redis) -> None:
    do(Reply(KEY, RETRY, 100))
    do(Reply(KEY, SUCCESS, 100))
    do(Reply(KEY, RETRY, 100))
    assert client.get(KEY) == SUCCESS


def test_follow_ups_are_pushed_to_the_head_of_the_queue_in_running_order(
    do: Any, store: CommitStore, client: redis.Redis
) -> None:
    fill(store, QUEUE, [b"m"])
    assert do(FollowUp(b"first"), FollowUp(b"second"), Requeue(b"last")) == "ok"
    assert queued(store, QUEUE) == [b"first", b"second", b"m", b"last"]


def test_keys_of_celerys_result_backend(do: Any, client: redis.Redis) -> None:
    client.set("a", 1)
    client.set("b", 1)
    assert do(DeleteResultKeys([b"a", "b"]), SetResultKey("c", "done", 100), SetResultKey(b"d", 1, None)) == "ok"
    assert client.mget("a", "b", "c", "d") == [None, None, b"done", b"1"]
    assert (90 < client.ttl("c") <= 100, client.ttl("d")) == (True, -1)  # type: ignore[operator]


@pytest.mark.parametrize("kind", ["stream", "hash"])
def test_a_foreign_value_under_a_results_key_does_not_block_the_commit(do: Any, client: redis.Redis, kind: str) -> None:
    if kind == "stream":
        client.xadd(KEY, {"foreign": "1"})
    else:
        client.hset(KEY.decode(), "foreign", "1")
    assert do(Reply(KEY, SUCCESS, 100), Push("stock", b"x")) == "ok"
    assert client.lrange("stock", 0, -1) == [b"x"]


def test_keys_without_permission_are_refused_before_anything_is_written(
    redis_url: str, lease: Lease, store: CommitStore, client: redis.Redis
) -> None:
    """For example a queue that a message names. Results without permission are omitted instead."""
    client.execute_command("ACL", "SETUSER", "narrow", "on", ">x", "~partition*", "~{partition*", "&{partition*", "+@all")
    fill(store, QUEUE, [b"m"])
    with redis.Redis.from_url(redis_url, username="narrow", password="x") as user:
        narrow = CommitStore(user, store.names, batch_messages=100, batch_bytes=1000)
        answer = narrow.send(commit_of(lease, [b"m"], commands=[["LPUSH", "foreign", "x"]]))
        assert (answer.status, answer.culprit, queued(store, QUEUE)) == ("wrongtype", "foreign", [b"m"])
        assert narrow.send(commit_of(lease, [b"m"], commands=[["REPLY", KEY, SUCCESS, 100]])).status == "ok"
    client.execute_command("ACL", "DELUSER", "narrow")
    assert not client.exists(KEY)
