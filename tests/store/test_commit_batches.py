"""The answer of a commit: the next batch, limited in size, after due and prioritised messages have joined the queue."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import PRIORITY_SUFFIXES, Names
from tests.store.declared import commit_of, fill, queued
from tests.support.wait import wait_until

QUEUE = "partition.2"
DELAYED = "{partition.2}:delayed"


def sized(client: redis.Redis, names: Names, *, messages: int = 1_000_000, size: int = 10**9) -> CommitStore:
    return CommitStore(client, names, batch_messages=messages, batch_bytes=size)


def numbered(count: int) -> list[bytes]:
    return [b"%06d" % number for number in range(count)]


@pytest.mark.parametrize("limit", [1, 15, 16, 17, 144, 145, 2192, 4999, 5000, 9000])
def test_a_batch_is_the_oldest_messages_up_to_the_requested_count(
    client: redis.Redis, names: Names, lease: Lease, limit: int
) -> None:
    messages = numbered(5000)
    store = sized(client, names, messages=limit)
    fill(store, QUEUE, messages)
    assert store.peek(lease).messages == messages[:limit]


def test_a_commit_may_request_less_than_a_batch_or_nothing(client: redis.Redis, names: Names, lease: Lease) -> None:
    store = sized(client, names)
    fill(store, QUEUE, numbered(10))
    assert store.send(commit_of(lease, [b"000000"], ask=3)).messages == numbered(4)[1:]
    assert store.send(commit_of(lease, [b"000001"], commit_number=1, ask=0)).messages == []


@pytest.mark.parametrize(
    ("size", "count"), [(1, 1), (9, 1), (10, 1), (19, 1), (20, 2), (29, 2), (250, 25), (10_000, 400)]
)
def test_a_batch_ends_before_the_message_that_would_exceed_the_bytes_and_has_at_least_one(
    client: redis.Redis, names: Names, lease: Lease, size: int, count: int
) -> None:
    messages = [b"%010d" % number for number in range(400)]
    store = sized(client, names, size=size)
    fill(store, QUEUE, messages)
    assert store.peek(lease).messages == messages[:count]


def test_a_message_larger_than_the_batch_is_alone_in_it(client: redis.Redis, names: Names, lease: Lease) -> None:
    huge = b"x" * 100_000
    store = sized(client, names, size=1000)
    fill(store, QUEUE, [b"small", huge, b"after"])
    assert store.peek(lease).messages == [b"small"]
    assert store.send(commit_of(lease, [b"small"])).messages == [huge]
    assert store.send(commit_of(lease, [huge], commit_number=1)).messages == [b"after"]


def test_messages_are_unchanged_whatever_bytes_they_contain(client: redis.Redis, names: Names, lease: Lease) -> None:
    messages = [b"", bytes(range(256)), b"\r\n", "é\x00".encode(), b"\xff\xfe"]
    store = sized(client, names)
    fill(store, QUEUE, messages)
    assert store.peek(lease).messages == messages
    assert store.send(commit_of(lease, messages)).status == "ok"


def test_a_delayed_message_is_in_the_reply_of_the_first_peek_after_it_is_due(store: CommitStore, lease: Lease) -> None:
    now = store.peek(lease).now
    due = round((now + 0.15) * 1000)
    store.client.zadd(DELAYED, {b"1.0:late:r": due})
    fill(store, QUEUE, [b"m0"])
    early = store.peek(lease)
    assert early.next_due == due / 1000
    reply = wait_until(lambda: (r := store.peek(lease)).next_due is None and r)
    assert reply.now >= due / 1000
    assert reply.messages == [b"m0", b"late:r"]
    assert not store.client.exists(DELAYED)


def test_due_messages_join_the_end_of_the_queue_earliest_first_and_once(store: CommitStore, lease: Lease) -> None:
    store.client.zadd(DELAYED, {b"3.0:second": 2000, b"2.0:first": 1000, b"9.1:second": 2000, b"4.0:far": 10**15})
    fill(store, QUEUE, [b"m0"])
    reply = store.peek(lease)
    assert reply.messages == [b"m0", b"first", b"second", b"second"]
    assert reply.next_due == 10**12
    assert store.peek(lease).messages == reply.messages
    assert store.client.zcard(DELAYED) == 1


def test_a_commit_answers_with_messages_that_have_become_due(store: CommitStore, lease: Lease) -> None:
    fill(store, QUEUE, [b"m0"])
    store.client.zadd(DELAYED, {b"0.0:due": 1})
    assert store.send(commit_of(lease, [b"m0"])).messages == [b"due"]


def test_due_messages_beyond_the_limit_of_one_call_come_with_the_next_one(
    client: redis.Redis, names: Names, lease: Lease
) -> None:
    store = sized(client, names)
    entries = {b"1.%04d:%04d" % (number, number): 1000 + number for number in range(1500)}
    client.zadd(DELAYED, entries)
    first = store.peek(lease)
    assert first.next_due is not None and first.next_due <= first.now
    second = store.send(commit_of(lease, first.messages, ask=2000))
    assert second.next_due is None
    assert first.messages + second.messages == [b"%04d" % number for number in range(1500)]


def test_no_more_due_messages_join_the_queue_than_the_worker_allows(client: redis.Redis, names: Names, lease: Lease) -> None:
    store = sized(client, names)
    fill(store, QUEUE, [b"m0", b"m1"])
    client.zadd(DELAYED, {b"1.%04d:%04d" % (number, number): 1000 + number for number in range(300)})
    store.max_due = 100
    first = store.send(commit_of(lease, [b"m0"], ask=2000))
    assert first.messages == [b"m1", *(b"%04d" % number for number in range(100))]
    store.max_due = 0
    second = store.send(commit_of(lease, first.messages, commit_number=1, ask=2000))
    assert second.messages == [] and second.next_due is not None and second.next_due <= second.now


def test_messages_with_a_priority_join_the_queue_in_order_the_most_urgent_list_first(
    store: CommitStore, lease: Lease
) -> None:
    three, six, nine = (QUEUE + suffix for suffix in PRIORITY_SUFFIXES)
    fill(store, nine, [b"9a", b"9b"])
    fill(store, three, [b"3a", b"3b"])
    fill(store, six, [b"6a"])
    fill(store, QUEUE, [b"m0", b"m1"])
    reply = store.send(commit_of(lease, [b"m0"]))
    assert reply.messages == [b"m1", b"3a", b"3b", b"6a", b"9a", b"9b"]
    assert queued(store, QUEUE) == reply.messages
    assert not store.client.exists(three, six, nine)


def test_a_long_priority_list_joins_the_queue_in_portions_of_a_thousand_messages(client: redis.Redis, names: Names, lease: Lease) -> None:
    """One script call must not block the whole server for a time that grows with the list."""
    store = sized(client, names)
    three = QUEUE + PRIORITY_SUFFIXES[0]
    expected = [b"%04d" % number for number in range(2500)]
    fill(store, three, expected)
    for left in (1500, 500, 0):
        messages = store.peek(lease).messages
        assert client.llen(three) == left
    assert messages == expected


def test_a_fenced_worker_moves_nothing_into_the_queue(store: CommitStore, lease: Lease) -> None:
    fill(store, QUEUE + PRIORITY_SUFFIXES[0], [b"3a"])
    store.client.zadd(DELAYED, {b"0.0:due": 1})
    assert store.peek(Lease(lease.partition, lease.token + 1)).status == "fenced"
    assert not store.client.exists(QUEUE)
