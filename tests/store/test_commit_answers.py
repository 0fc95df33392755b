"""Each answer of commit.lua. Only `ok` writes (laws 1, 2 and 4)."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import redis

from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease, balance, release
from celery_partitions.store.names import Names
from tests.store.declared import commit_of, fill, queued

QUEUE = "partition.2"
STATE = "{partition.2}:state:totals"
WRITE: list[list[Any]] = [["HSET", STATE, b"k", b"new"]]


@pytest.fixture(autouse=True)
def messages(store: CommitStore) -> list[bytes]:
    """Five messages in the queue, oldest first."""
    found = [b"m%d" % number for number in range(5)]
    fill(store, QUEUE, found)
    return found


def everything(client: redis.Redis) -> dict[bytes, bytes]:
    """Every key's value, as the server dumps it."""
    return {key: client.dump(key) for key in client.scan_iter()}  # type: ignore[misc]


def test_ok_removes_the_batch_runs_the_commands_and_answers_with_the_next_batch(
    store: CommitStore, lease: Lease
) -> None:
    reply = store.send(commit_of(lease, [b"m0", b"m1"], commands=WRITE))
    assert (reply.status, reply.commit_number, reply.edit_version) == ("ok", 1, 0)
    assert reply.messages == [b"m2", b"m3", b"m4"]
    assert queued(store, QUEUE) == [b"m2", b"m3", b"m4"]
    assert store.client.hget(STATE, "k") == b"new"


def test_ok_may_empty_the_queue(store: CommitStore, lease: Lease, messages: list[bytes]) -> None:
    reply = store.send(commit_of(lease, messages))
    assert (reply.status, reply.messages) == ("ok", [])
    assert not store.client.exists(QUEUE)


def test_the_reply_has_the_time_of_the_server(store: CommitStore, lease: Lease) -> None:
    seconds, micros = store.client.time()  # type: ignore[misc]
    assert store.peek(lease).now >= seconds + micros // 1000 / 1000


def test_messages_that_arrive_during_the_batch_stay_behind_it(store: CommitStore, lease: Lease) -> None:
    fill(store, QUEUE, [b"young"])
    assert store.send(commit_of(lease, [b"m0"])).messages == [b"m1", b"m2", b"m3", b"m4", b"young"]


def test_a_commit_sent_again_is_answered_already_and_writes_nothing(store: CommitStore, lease: Lease) -> None:
    commit = commit_of(lease, [b"m0"], commands=[["HINCRBY", "{partition.2}:meta", "processed", 1]])
    first = store.send(commit)
    before = everything(store.client)
    again = store.send(commit)
    assert (first.status, again.status) == ("ok", "already")
    assert (again.commit_number, again.messages) == (first.commit_number, first.messages)
    assert everything(store.client) == before


def test_already_is_answered_even_if_the_next_message_is_equal(store: CommitStore, lease: Lease) -> None:
    fill(store, QUEUE, [b"m5", b"m5"])
    store.send(commit_of(lease, [b"m0", b"m1", b"m2", b"m3", b"m4"]))
    commit = commit_of(lease, [b"m5"], commit_number=1)
    assert [store.send(commit).status, store.send(commit).status] == ["ok", "already"]
    assert queued(store, QUEUE) == [b"m5"]


def test_fenced_if_another_owner_has_taken_over(
    client: redis.Redis, names: Names, store: CommitStore, lease: Lease
) -> None:
    client.zadd(names.workers, {"one": 1})  # its lease ended long ago
    taken = balance(client, names, "two", lease_seconds=3600, partitions=4)
    assert taken.owned["2"] > lease.token
    before = everything(client)
    reply = store.send(commit_of(lease, [b"m0"], commands=WRITE))
    assert (reply.status, reply.messages) == ("fenced", [])
    assert everything(client) == before


def test_fenced_after_the_worker_itself_released_the_partition(
    client: redis.Redis, names: Names, store: CommitStore, lease: Lease
) -> None:
    assert release(client, names, "one", {lease.partition: lease.token}) == 1
    assert store.send(commit_of(lease, [b"m0"])).status == "fenced"
    assert store.peek(lease).status == "fenced"


def test_an_owner_whose_lease_ended_without_a_next_owner_still_commits(
    client: redis.Redis, names: Names, store: CommitStore, lease: Lease
) -> None:
    client.zadd(names.workers, {"one": 1})
    assert store.send(commit_of(lease, [b"m0"], commands=WRITE)).status == "ok"


@pytest.mark.parametrize(
    "taken", [[b"x"], [b"m0", b"x"], [b"x", b"m1"], [b"m0", b"m2"], [b"m%d" % n for n in range(6)]]
)
def test_moved_if_the_head_of_the_queue_is_not_what_was_taken(
    store: CommitStore, lease: Lease, taken: list[bytes]
) -> None:
    before = everything(store.client)
    assert store.send(commit_of(lease, taken, commands=WRITE)).status == "moved"
    assert everything(store.client) == before


def test_moved_if_the_queue_is_gone(store: CommitStore, lease: Lease) -> None:
    store.client.delete(QUEUE)
    assert store.send(commit_of(lease, [b"m0"], commands=WRITE)).status == "moved"
    assert not store.client.exists(STATE, QUEUE)


@pytest.mark.parametrize(("commit_number", "written"), [(0, 2), (2, 0), (7, 0)])
def test_moved_if_the_commit_number_is_not_the_expected_one(
    store: CommitStore, lease: Lease, commit_number: int, written: int
) -> None:
    for number in range(written):
        store.send(commit_of(lease, [b"m%d" % number], commit_number=number))
    before = everything(store.client)
    assert store.send(commit_of(lease, [b"m%d" % written], commit_number=commit_number)).status == "moved"
    assert everything(store.client) == before


def test_stale_if_a_state_was_changed_from_outside(store: CommitStore, lease: Lease) -> None:
    store.client.hincrby("{partition.2}:meta", "edit_version", 1)
    before = everything(store.client)
    reply = store.send(commit_of(lease, [b"m0"], edit_version=0, commands=WRITE))
    assert (reply.status, reply.edit_version) == ("stale", 1)
    assert everything(store.client) == before
    assert store.send(commit_of(lease, [b"m0"], edit_version=1, commands=WRITE)).status == "ok"


WRONG = {
    "HSET": ["HSET", "taken-key", b"k", b"v"],
    "HDEL": ["HDEL", "taken-key", b"k"],
    "HINCRBY": ["HINCRBY", "taken-key", "processed", 1],
    "LPUSH": ["LPUSH", "taken-key", b"m"],
    "ZADD": ["ZADD", "taken-key", 1, b"m"],
}


@pytest.mark.parametrize("command", WRONG)
def test_wrongtype_names_the_key_and_writes_none_of_the_commands(
    store: CommitStore, lease: Lease, command: str
) -> None:
    store.client.set("taken-key", "text")
    before = everything(store.client)
    reply = store.send(commit_of(lease, [b"m0"], commands=[*WRITE, WRONG[command]]))
    assert (reply.status, reply.culprit, reply.messages) == ("wrongtype", "taken-key", [])
    assert everything(store.client) == before
    store.client.delete("taken-key")
    assert store.send(commit_of(lease, [b"m0"], commands=[*WRITE, WRONG[command]])).status == "ok"


def test_wrongtype_if_the_commit_itself_would_give_one_key_two_types(
    client: redis.Redis, store: CommitStore, lease: Lease
) -> None:
    commands = [["LPUSH", "both", b"element"], ["HSET", "a-hash", "k", b"v"], ["XADD", "both", "*", "message", b"entry"]]
    reply = store.send(commit_of(lease, [], commit_number=0, commands=commands))
    assert (reply.status, reply.culprit) == ("wrongtype", "both")
    assert not client.exists("both", "a-hash")


FOREIGN = [f"{QUEUE}\x06\x163", f"{QUEUE}\x06\x169", "{partition.2}:delayed"]


@pytest.mark.parametrize(("key", "kind"), list(itertools.product(FOREIGN, ["string", "set"])))
def test_a_key_of_another_type_next_to_the_queue_does_not_stop_the_partition(
    store: CommitStore, lease: Lease, key: str, kind: str
) -> None:
    store.client.set(key, "text") if kind == "string" else store.client.sadd(key, "text")
    assert store.peek(lease).status == "ok"
    reply = store.send(commit_of(lease, [b"m0"], commands=WRITE))
    assert (reply.status, reply.messages[0]) == ("ok", b"m1")


@pytest.mark.parametrize("mailbox_of", [None, "k"])
def test_wrongtype_if_the_queue_itself_has_another_type(
    store: CommitStore, lease: Lease, names: Names, mailbox_of: str | None
) -> None:
    store.client.delete(QUEUE)
    store.client.set(QUEUE, "text")
    store.client.lpush(names.mailbox("2", "k"), b"p0")
    before = everything(store.client)
    reply = store.send(commit_of(lease, [b"p0"], mailbox_of=mailbox_of, commands=WRITE))
    assert (reply.status, reply.culprit) == ("wrongtype", QUEUE)
    assert store.peek(lease).status == "wrongtype"
    assert everything(store.client) == before


def test_an_empty_message_can_be_removed_like_any_other(store: CommitStore, lease: Lease, messages: list[bytes]) -> None:
    fill(store, QUEUE, [b""])
    assert store.send(commit_of(lease, [*messages, b""])).status == "ok"


def test_a_peek_writes_nothing_and_returns_commit_number_and_edit_version(store: CommitStore, lease: Lease) -> None:
    store.send(commit_of(lease, [b"m0"]))
    store.client.hincrby("{partition.2}:meta", "edit_version", 3)
    before = everything(store.client)
    reply = store.peek(lease)
    assert (reply.status, reply.commit_number, reply.edit_version) == ("ok", 1, 3)
    assert reply.messages == [b"m1", b"m2", b"m3", b"m4"]
    assert reply.next_due is None
    assert everything(store.client) == before


def test_messages_are_removed_from_the_mailbox_and_the_next_batch_is_that_of_the_queue(
    store: CommitStore, lease: Lease, names: Names
) -> None:
    mailbox = names.mailbox("2", "k\udcff")
    store.client.lpush(mailbox, b"p0", b"p1")
    reply = store.send(commit_of(lease, [b"p0"], mailbox_of="k\udcff", ask=2))
    assert (reply.status, reply.messages) == ("ok", [b"m0", b"m1"])
    assert queued(store, mailbox) == [b"p1"]
    moved = store.send(commit_of(lease, [b"m0"], commit_number=1, mailbox_of="k\udcff"))
    assert moved.status == "moved"
