"""How a commit is sent: while the next batch runs, after a lost reply, and to a server that has lost its scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_partitions.store.client import connect
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings
from tests.store.declared import commit_of, fill, queued
from tests.support.proxy import Proxy

QUEUE = "partition.2"


@pytest.fixture
def distant(client: redis.Redis, names: Names, proxy: Proxy, redis_url: str) -> Iterator[CommitStore]:
    """A worker's store, connected through the proxy."""
    database = int(redis_url.rpartition("/")[2])
    with connect(Settings(redis_url=proxy.url(database))) as connection:
        yield CommitStore(connection, names, batch_messages=100, batch_bytes=1_000_000)


def test_begin_and_finish_give_the_same_answer_as_send(
    store: CommitStore, lease: Lease
) -> None:
    fill(store, QUEUE, [b"m0", b"m1"])
    commit = commit_of(lease, [b"m0"])
    in_flight = store.begin(commit)
    reply = store.finish(in_flight)
    assert (reply.status, reply.commit_number, reply.messages) == ("ok", 1, [b"m1"])
    assert store.send(commit).status == "already"


def test_a_commit_begun_on_a_server_without_the_script_is_written_once(store: CommitStore, lease: Lease) -> None:
    fill(store, QUEUE, [b"m0", b"m1"])
    store.client.script_flush()
    assert store.finish(store.begin(commit_of(lease, [b"m0"]))).status == "ok"
    assert queued(store, QUEUE) == [b"m1"]


def test_a_commit_sent_to_a_server_without_the_script_is_written_once(store: CommitStore, lease: Lease) -> None:
    fill(store, QUEUE, [b"m0"])
    store.client.script_flush()
    assert store.send(commit_of(lease, [b"m0"])).status == "ok"


def test_commits_of_two_partitions_may_be_in_flight_at_once(
    client: redis.Redis, store: CommitStore, lease: Lease, names: Names
) -> None:
    client.hset(names.meta("3"), "token", 9)
    fill(store, QUEUE, [b"m0"])
    fill(store, "partition.3", [b"x0"])
    first, second = store.begin(commit_of(lease, [b"m0"])), store.begin(commit_of(Lease("3", 9), [b"x0"]))
    assert (store.finish(second).status, store.finish(first).status) == ("ok", "ok")


@pytest.mark.parametrize("how", ["send", "begin"])
def test_after_a_lost_reply_the_same_commit_is_answered_already(
    distant: CommitStore, store: CommitStore, lease: Lease, proxy: Proxy, how: str
) -> None:
    fill(store, QUEUE, [b"m0", b"m1"])
    distant.peek(lease)  # now the server has the script
    commit = commit_of(lease, [b"m0"], commands=[["HINCRBY", "{partition.2}:meta", "processed", 1]])
    fault = proxy.cut_before_reply(b"processed")
    with pytest.raises(redis.ConnectionError):
        distant.send(commit) if how == "send" else distant.finish(distant.begin(commit))
    assert fault.fired == 1
    assert distant.send(commit).status == "already"
    assert queued(store, QUEUE) == [b"m1"]
    assert store.client.hget("{partition.2}:meta", "processed") == b"1"


@pytest.mark.parametrize("how", ["send", "begin"])
def test_after_a_lost_request_the_same_commit_is_written(
    distant: CommitStore, store: CommitStore, lease: Lease, proxy: Proxy, how: str
) -> None:
    fill(store, QUEUE, [b"m0", b"m1"])
    distant.peek(lease)
    commit = commit_of(lease, [b"m0"], commands=[["HINCRBY", "{partition.2}:meta", "processed", 1]])
    fault = proxy.cut_before_request(b"processed")
    with pytest.raises(redis.ConnectionError):
        distant.send(commit) if how == "send" else distant.finish(distant.begin(commit))
    assert fault.fired == 1
    assert distant.send(commit).status == "ok"
    assert store.client.hget("{partition.2}:meta", "processed") == b"1"


def test_nothing_is_sent_twice_without_an_explicit_call(
    distant: CommitStore, store: CommitStore, lease: Lease, proxy: Proxy
) -> None:
    distant.peek(lease)
    fault = proxy.cut_before_reply(b"HINCRBY", times=5)
    with pytest.raises(redis.ConnectionError):
        distant.send(commit_of(lease, [], commands=[["HINCRBY", "counter", "n", 1]]))
    assert fault.fired == 1
    assert store.client.hget("counter", "n") == b"1"
