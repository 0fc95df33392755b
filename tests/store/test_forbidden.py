"""If the Redis user may not run a command of a commit, or of a source's push, nothing is written."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import mailbox_lengths, read_mailboxes
from celery_partitions.store.sources import hold_source, push_from_source
from tests.store.declared import commit_of, fill, queued


@pytest.fixture
def worker(client: redis.Redis) -> Iterator[redis.Redis]:
    """A user who may read everything, but write only keys under `partition`."""
    try:
        client.execute_command("ACL", "SETUSER", "worker", "reset", "on", ">secret", "+@all", "~partition*", "~{partition*", "%R~*", "&*")
    except redis.ResponseError:
        pytest.skip("this server knows no permission to read alone (Redis 7 does)")
    address = client.connection_pool.connection_kwargs
    try:
        with redis.Redis(
            host=address["host"], port=address["port"], db=address["db"], username="worker", password="secret"
        ) as worker:
            yield worker
    finally:
        client.execute_command("ACL", "DELUSER", "worker")


def test_a_commit(client: redis.Redis, names: Names, lease: Lease, worker: redis.Redis) -> None:
    store = CommitStore(worker, names, batch_messages=100, batch_bytes=1_000_000)
    fill(store, "partition.2", [b"first", b"second"])
    state = ["HSET", "{partition.2}:state:totals", "k", b"s"]
    reply = store.send(commit_of(lease, [b"first"], commands=[state, ["LPUSH", "another", b"x"]]))
    assert (reply.status, reply.culprit) == ("wrongtype", "another")
    assert queued(store, "partition.2") == [b"first", b"second"]
    assert client.exists("{partition.2}:state:totals", "another") == 0
    assert client.hget("{partition.2}:meta", "commit_number") is None
    assert store.send(commit_of(lease, [b"first"], commands=[state])).status == "ok"


def test_a_push_of_a_source(client: redis.Redis, names: Names, worker: redis.Redis) -> None:
    token = hold_source(worker, names, "numbers", "one", 60.0).token
    pushed = [["LPUSH", "partition.0", b"m"], ["LPUSH", "another", b"m"]]
    assert push_from_source(worker, names.source("numbers"), token, 0, b"1", pushed) == ("wrongtype", "another")
    assert client.exists("partition.0", "another") == 0
    assert push_from_source(worker, names.source("numbers"), token, 0, b"1", pushed[:1]) == ("ok", "")


def test_a_mailbox_that_cannot_be_read_does_not_count_as_empty(client: redis.Redis, names: Names, worker: redis.Redis) -> None:
    """Its key would go on without the messages in it."""
    client.lpush(names.mailbox("2", "k"), b"m")
    assert mailbox_lengths(worker, names, "2", ["k"]) == {"k": 1}
    assert read_mailboxes(worker, names, "2", ["k"], 5) == {"k": ([b"m"], 1)}
    client.execute_command("ACL", "SETUSER", "worker", "-llen")
    with pytest.raises(redis.ResponseError):
        mailbox_lengths(worker, names, "2", ["k"])
    with pytest.raises(redis.ResponseError):
        read_mailboxes(worker, names, "2", ["k"], 5)
