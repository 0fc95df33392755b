"""Pausing: facts that the commit script and the lease keeper act on; told at once, audited."""

from __future__ import annotations

import redis

from tasks.operating.audit import Audit
from tasks.operating.pausing import pause, resume
from tasks.store.commits import CommitStore
from tasks.store.leases import Lease
from tasks.store.names import Names
from tests.store.declared import commit_of, fill


def test_a_paused_unit_gives_no_messages_and_a_resumed_one_does(
    client: redis.Redis, names: Names, store: CommitStore, lease: Lease
) -> None:
    fill(store, "partition.2", [b"m0", b"m1"])
    assert pause(client, names, ["2"], by="me") == ["2"]
    reply = store.peek(lease)
    assert (reply.paused, reply.messages) == (True, [])
    assert resume(client, names, ["2"], by="me") == ["2"]
    assert store.peek(lease).messages == [b"m0", b"m1"]


def test_the_batch_under_way_is_the_last(client: redis.Redis, names: Names, store: CommitStore, lease: Lease) -> None:
    fill(store, "partition.2", [b"m0", b"m1"])
    reply = store.peek(lease)
    pause(client, names, ["2"], by="me")
    answer = store.send(commit_of(lease, [b"m0"], position=reply.position, revision=reply.revision))
    assert (answer.status, answer.paused, answer.messages) == ("ok", True, [])


def test_what_is_so_already_is_not_counted_nor_audited(client: redis.Redis, names: Names) -> None:
    assert resume(client, names, ["0", "1", "ingress"], by="me") == []
    assert pause(client, names, ["1"], by="me") == ["1"]
    assert pause(client, names, ["0", "1", "ingress"], by="you") == ["0", "ingress"]
    assert [record.what for record in Audit(client, names).last(9)] == ["pause", "pause"]
    assert resume(client, names, ["0", "1", "2", "3", "ingress"], by="me") == ["0", "1", "ingress"]
    assert not client.exists(*(names.facts(unit) for unit in ("0", "1", "2", "3", "ingress")))


def test_workers_are_told_at_once(client: redis.Redis, names: Names) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as changes:
        changes.subscribe(names.changed)
        changes.get_message(timeout=5)
        for act in (pause, resume):
            act(client, names, ["1"], by="me")
            assert changes.get_message(timeout=5) is not None
