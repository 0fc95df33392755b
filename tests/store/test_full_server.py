"""A full server refuses commands that need memory, but workers can still do what frees memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.drain import drain, undrain
from celery_partitions.admin.pause import pause, resume
from celery_partitions.model.errors import SetupError
from celery_partitions.store.commands import delayed_entry
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.follow_ups import follow_up_secret
from celery_partitions.store.isolation import IsolatedTry, begin_isolated_try
from celery_partitions.store.leases import Lease, balance
from celery_partitions.store.names import Names
from celery_partitions.store.topology import agree_on_topology
from tests.store.declared import commit_of, fill, queued
from tests.support.server import RedisServer


@pytest.fixture
def client(server_factory: Callable[..., RedisServer]) -> Iterator[redis.Redis]:
    """A client of the test's own server, which the test may fill."""
    with server_factory().client() as client:
        yield client


def fill_up(client: redis.Redis) -> None:
    client.config_set("maxmemory-policy", "noeviction")
    client.config_set("maxmemory", "1")
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        client.lpush("x", "x")


def test_a_peek_returns_due_messages(client: redis.Redis, names: Names, store: CommitStore, lease: Lease) -> None:
    due, entry = delayed_entry(1.0, b"due", 0, 0)
    client.zadd(names.delayed("2"), {entry: due})
    fill(store, "partition.2", [b"first"])
    fill_up(client)
    assert store.peek(lease).messages == [b"first", b"due"]
    assert store.send(commit_of(lease, [b"first", b"due"])).status == "ok"


def test_a_message_can_be_isolated(client: redis.Redis, names: Names, lease: Lease) -> None:
    fill_up(client)
    assert begin_isolated_try(client, names, lease, ["digest"], 1) == IsolatedTry(1, 0, 0, None)


def test_a_process_that_starts_can_read_n(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 4)
    fill_up(client)
    agree_on_topology(client, names, 4)
    with pytest.raises(SetupError, match="PARTITIONS=4"):
        agree_on_topology(client, names, 5)


def test_a_worker_that_starts_gets_the_secret_of_follow_ups(client: redis.Redis, names: Names) -> None:
    fill_up(client)
    secret = follow_up_secret(client, names)
    assert len(secret) == 64 and follow_up_secret(client, names) == secret


def test_an_operator_can_pause_and_drain(client: redis.Redis, names: Names) -> None:
    balance(client, names, "one@host/1", lease_seconds=60, partitions=1)
    fill_up(client)
    assert pause(client, names, ["0"], by="me") == ["0"] and resume(client, names, ["0"], by="me") == ["0"]
    assert [drain(client, names, "one@host", by="me"), undrain(client, names, "one@host", by="me")] == ["ok", "ok"]
    assert [record.what for record in Audit(client, names).last(9)] == ["undrain", "drain", "resume", "pause"]


def test_a_new_group_cannot_start(client: redis.Redis) -> None:
    fill_up(client)
    with pytest.raises(redis.exceptions.OutOfMemoryError):
        agree_on_topology(client, Names("new"), 4)


def test_a_commit_is_written(client: redis.Redis, store: CommitStore, lease: Lease) -> None:
    fill(store, "partition.2", [b"first", b"second"])
    fill_up(client)
    reply = store.send(commit_of(lease, [b"first"], commands=[["HSET", "{partition.2}:state:totals", "k", b"s"]]))
    assert (reply.status, reply.messages) == ("ok", [b"second"])
    assert queued(store, "partition.2") == [b"second"]
