"""A commit that removes messages from mailboxes and from the queue. Each mailbox is checked by its ends, and a difference refuses the whole commit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from celery_partitions.model.effects import CountRunning, Mail, TakeFromMailbox, Unpark
from celery_partitions.store.commands import commands_of
from celery_partitions.store.commits import Commit, CommitStore
from celery_partitions.store.leases import Lease
from tests.store.declared import commit_of, fill, queued
from tests.store.test_commit_answers import QUEUE, everything


@pytest.fixture
def boxes(store: CommitStore, lease: Lease) -> list[bytes]:
    """Three mailboxes with four messages each, and two messages in the queue."""
    fill(store, QUEUE, [b"m0", b"m1"])
    found = [store.names.mailbox("2", key) for key in "abc"]
    for box in found:
        fill(store, box, [b"%s-%d" % (box[-1:], number) for number in range(4)])
    return found


def commit(store: CommitStore, lease: Lease, *effects: Any, taken: list[bytes] | None = None) -> Commit:
    return commit_of(lease, taken or [], commands=commands_of(effects, store.names, "2", 0, 1.0))


def test_several_mailboxes_and_the_queue_are_shortened_together(store: CommitStore, lease: Lease, boxes: list[bytes]) -> None:
    effects = TakeFromMailbox("a", [b"a-0"]), TakeFromMailbox("b", [b"b-0", b"b-1", b"b-2", b"b-3"]), Unpark("b"), CountRunning(2)
    reply = store.send(commit(store, lease, *effects, taken=[b"m0"]))
    assert (reply.status, reply.messages) == ("ok", [b"m1"])
    assert [queued(store, box) for box in boxes] == [[b"a-1", b"a-2", b"a-3"], [], [b"c-0", b"c-1", b"c-2", b"c-3"]]
    assert store.client.hget(store.names.meta("2"), "running") == b"2"


def test_messages_that_the_same_commit_adds_to_a_mailbox_are_at_its_end(store: CommitStore, lease: Lease, boxes: list[bytes]) -> None:
    store.send(commit(store, lease, Mail("a", [b"new"]), TakeFromMailbox("a", [b"a-0", b"a-1"])))
    assert queued(store, boxes[0]) == [b"a-2", b"a-3", b"new"]


@pytest.mark.parametrize(
    "raws", [[b"other"], [b"b-0", b"other"], [b"b-0", b"b-1", b"b-2", b"b-3", b"b-4"]], ids=["oldest", "youngest", "too many"]
)
def test_a_mailbox_with_other_messages_refuses_the_whole_commit(
    store: CommitStore, lease: Lease, boxes: list[bytes], raws: list[bytes]
) -> None:
    before = everything(store.client)
    reply = store.send(commit(store, lease, TakeFromMailbox("a", [b"a-0"]), TakeFromMailbox("b", raws), taken=[b"m0"]))
    assert reply.status == "moved"
    assert everything(store.client) == before


def test_a_mailbox_of_another_type_refuses_the_whole_commit(store: CommitStore, lease: Lease, boxes: list[bytes]) -> None:
    store.client.delete(boxes[1])
    store.client.set(boxes[1], "text")
    before = everything(store.client)
    reply = store.send(commit(store, lease, TakeFromMailbox("a", [b"a-0"]), TakeFromMailbox("b", [b"b-0"])))
    assert (reply.status, reply.culprit) == ("wrongtype", boxes[1].decode())
    assert everything(store.client) == before


def test_a_commit_sent_again_is_written_once(store: CommitStore, lease: Lease, boxes: list[bytes]) -> None:
    once = commit(store, lease, TakeFromMailbox("a", [b"a-0"]))
    assert [store.send(once).status, store.send(once).status] == ["ok", "already"]
    assert queued(store, boxes[0]) == [b"a-1", b"a-2", b"a-3"]


@pytest.mark.parametrize(("change", "status"), [({"edit_version": 7}, "stale"), ({"commit_number": 5}, "moved")])
def test_it_is_refused_after_an_edit_or_another_commit_like_any_commit(
    store: CommitStore, lease: Lease, boxes: list[bytes], change: dict[str, Any], status: str
) -> None:
    refused = replace(commit(store, lease, TakeFromMailbox("a", [b"a-0"])), **change)
    before = everything(store.client)
    assert store.send(refused).status == status
    assert everything(store.client) == before
