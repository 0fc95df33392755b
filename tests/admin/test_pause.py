"""Pausing: the commit script and the lease keeper obey it; workers are notified immediately; it is audited."""

from __future__ import annotations

import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.pause import EXPORT, pause, resume
from celery_partitions.admin.status import read_status
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease, balance
from celery_partitions.store.names import Names
from tests.store.declared import commit_of, fill


def test_a_paused_partition_gives_no_messages_and_a_resumed_one_does(
    client: redis.Redis, names: Names, store: CommitStore, lease: Lease
) -> None:
    fill(store, "partition.2", [b"m0", b"m1"])
    assert pause(client, names, ["2"], by="me") == ["2"]
    reply = store.peek(lease)
    assert (reply.paused, reply.messages) == (True, [])
    assert resume(client, names, ["2"], by="me") == ["2"]
    assert store.peek(lease).messages == [b"m0", b"m1"]


def test_the_current_batch_is_the_last(client: redis.Redis, names: Names, store: CommitStore, lease: Lease) -> None:
    fill(store, "partition.2", [b"m0", b"m1"])
    reply = store.peek(lease)
    pause(client, names, ["2"], by="me")
    answer = store.send(commit_of(lease, [b"m0"], commit_number=reply.commit_number, edit_version=reply.edit_version))
    assert (answer.status, answer.paused, answer.messages) == ("ok", True, [])


def test_pausing_a_paused_partition_is_neither_counted_nor_audited(client: redis.Redis, names: Names) -> None:
    assert resume(client, names, ["0", "1", "ingress"], by="me") == []
    assert pause(client, names, ["1"], by="me") == ["1"]
    assert pause(client, names, ["0", "1", "ingress"], by="you") == ["0", "ingress"]
    assert [record.what for record in Audit(client, names).last(9)] == ["pause", "pause"]
    assert resume(client, names, ["0", "1", "2", "3", "ingress"], by="me") == ["0", "1", "ingress"]
    assert not client.exists(*(names.meta(partition) for partition in ("0", "1", "2", "3", "ingress")))


def test_the_end_of_an_export_does_not_undo_an_operators_pause(client: redis.Redis, names: Names) -> None:
    assert pause(client, names, ["0"], by="me") == ["0"]
    assert pause(client, names, ["0", "1", "2"], by="export", whose=EXPORT) == ["1", "2"]
    assert pause(client, names, ["0", "1"], by="me") == ["1"], "it was paused, but not by an operator"
    assert resume(client, names, ["1", "2"], by="export", whose=EXPORT) == ["2"]
    assert [client.hget(names.meta(partition), "paused") for partition in ("0", "1", "2")] == [b"1", b"1", None]
    assert [record.who for record in Audit(client, names).last(9)] == ["export", "me", "export", "me"]


def test_an_operator_resumes_partitions_that_a_killed_export_left_paused(
    client: redis.Redis, names: Names, store: CommitStore, lease: Lease
) -> None:
    fill(store, "partition.2", [b"m0"])
    pause(client, names, ["2"], by="export", whose=EXPORT)
    assert store.peek(lease).paused
    assert balance(client, names, "one", lease_seconds=3600, partitions=4, pins=["2"]).paused == {"2"}
    assert [row.paused for row in read_status(client, names, 4)] == [False, False, True, False, False]
    assert resume(client, names, ["2"], by="me") == ["2"]
    assert store.peek(lease).messages == [b"m0"]


def test_an_operator_resumes_partitions_that_an_export_paused_and_pauses_them_again(client: redis.Redis, names: Names) -> None:
    pause(client, names, ["1"], by="export", whose=EXPORT)
    assert resume(client, names, ["1"], by="me") == ["1"]
    assert resume(client, names, ["1"], by="export", whose=EXPORT) == []
    assert pause(client, names, ["1"], by="me") == ["1"]
    assert resume(client, names, ["1"], by="export", whose=EXPORT) == []
    assert client.hget(names.meta("1"), "paused") == b"1"


def test_workers_are_notified_immediately(client: redis.Redis, names: Names) -> None:
    with client.pubsub(ignore_subscribe_messages=True) as changes:
        changes.subscribe(names.changed)
        changes.get_message(timeout=60)
        for act in (pause, resume):
            act(client, names, ["1"], by="me")
            assert changes.get_message(timeout=60) is not None
