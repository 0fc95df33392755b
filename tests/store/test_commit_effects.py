"""What one commit writes to Redis for an outcome of the step (law 4)."""

from __future__ import annotations

import base64
import random
from typing import Any

import msgspec
import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.items import DeadLetterItem, Delayed, Skipped, Work
from celery_partitions.model.messages import Headers, open_envelope
from celery_partitions.model.outcome import Failure, Outcome, Park
from celery_partitions.store.commands import park, unpark
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import (
    due_score,
    mailbox_lengths,
    read_mailbox,
    read_parked,
)
from tests.store.declared import commands_of_outcome, commit_of, computation, fill, queued

#: A time in the far future, in seconds since the epoch.
FAR = 10**10

RAW = (
    b'{"body":"W10=","headers":{"task":"totals","id":"id-1"},'
    b'"properties":{"delivery_tag":"t","delivery_info":{"exchange":""},"body_encoding":"base64"}}'
)


def write(
    store: CommitStore,
    lease: Lease,
    outcome: Outcome,
    *,
    commit_number: int = 0,
    now: float = 50.0,
    parked: dict[str, ParkedKey] | None = None,
) -> str:
    commands = commands_of_outcome(outcome, store.names, lease.partition, commit_number, now, parked or {})
    return store.send(commit_of(lease, [], commit_number=commit_number, commands=commands)).status


def work(key: str) -> Work:
    return Work(RAW, computation(), key, {}, open_envelope(RAW))


def parked_in(client: redis.Redis, names: Names) -> dict[str, ParkedKey]:
    found = read_parked(client, names, "2", 100)
    assert found is not None
    return found.parked


def index(client: redis.Redis, names: Names) -> dict[bytes, float]:
    return dict(client.zrange(names.parked_due("2"), 0, -1, withscores=True))  # type: ignore[arg-type]


def meta(store: CommitStore) -> dict[bytes, bytes]:
    """The partition's meta without the fields of the lease."""
    found: dict[bytes, bytes] = store.client.hgetall("{partition.2}:meta")  # type: ignore[assignment]
    return {name: value for name, value in found.items() if name not in (b"token", b"holder", b"since")}


def test_ten_thousand_states_are_written_in_one_commit(store: CommitStore, lease: Lease) -> None:
    states = {f"key-{number}": b"\x01%d" % number for number in range(10_001)}
    fill(store, "partition.2", [RAW])
    commands = commands_of_outcome(Outcome(states={"totals": states}), store.names, "2", 0, 0.0)
    assert store.send(commit_of(lease, [RAW], commands=commands)).status == "ok"
    assert store.client.hgetall("{partition.2}:state:totals") == {k.encode(): v for k, v in states.items()}
    assert meta(store)[b"commit_number"] == b"1"


def test_twenty_thousand_messages_are_forwarded_mailed_and_delayed_in_one_commit_in_order(
    store: CommitStore, lease: Lease
) -> None:
    raws = [b"%05d" % number for number in range(20_000)]
    outcome = Outcome(forwarded={1: raws}, mailed={"k": raws}, delayed=[Delayed(raw, FAR) for raw in raws])
    assert write(store, lease, outcome) == "ok"
    assert queued(store, "partition.1") == raws
    assert queued(store, "{partition.2}:mailbox:k") == raws
    assert store.client.zcard("{partition.2}:delayed") == 20_000


def test_states_are_in_the_hash_of_their_computation_and_keys_keep_their_bytes(store: CommitStore, lease: Lease) -> None:
    write(store, lease, Outcome(states={"totals": {"\udcff": b"1", "é": b"2"}, "other": {"k": b"3"}, "none": {}}))
    assert store.client.hgetall("{partition.2}:state:totals") == {b"\xff": b"1", "é".encode(): b"2"}
    assert store.client.hgetall("{partition.2}:state:other") == {b"k": b"3"}
    assert not store.client.exists("{partition.2}:state:none")


def test_forwarded_messages_are_behind_existing_ones(store: CommitStore, lease: Lease) -> None:
    fill(store, "partition.0", [b"before"])
    write(store, lease, Outcome(forwarded={0: [b"a", b"b"]}))
    assert queued(store, "partition.0") == [b"before", b"a", b"b"]


def test_messages_delayed_to_one_moment_return_in_order_over_many_commits(
    store: CommitStore, lease: Lease
) -> None:
    sent = [b"%03d" % number for number in range(240)]
    for commit_number in range(12):
        batch = sent[commit_number * 20 : commit_number * 20 + 20]
        assert write(store, lease, Outcome(delayed=[Delayed(raw, 1.0) for raw in batch]), commit_number=commit_number) == "ok"
        assert store.client.zcard("{partition.2}:delayed") == 0
    assert store.send(commit_of(lease, [], commit_number=None, ask=1000)).messages == sent


def test_messages_delayed_together_keep_their_order_until_they_are_due(store: CommitStore, lease: Lease) -> None:
    sent = [b"%03d" % number for number in range(240)]
    random.Random(1).shuffle(sent)
    for commit_number in range(12):
        batch = sent[commit_number * 20 : commit_number * 20 + 20]
        write(store, lease, Outcome(delayed=[Delayed(raw, FAR + 0.0004) for raw in batch]), commit_number=commit_number)
    entries: list[bytes] = store.client.zrange("{partition.2}:delayed", 0, -1)  # type: ignore[assignment]
    assert [entry.partition(b":")[2] for entry in entries] == sent


def test_two_equal_messages_delayed_to_one_moment_are_both_kept(store: CommitStore, lease: Lease) -> None:
    write(store, lease, Outcome(delayed=[Delayed(b"same", 1.0), Delayed(b"same", 1.0)]))
    assert store.peek(lease).messages == [b"same", b"same"]


def test_counters_count_once_however_often_the_commit_is_sent(store: CommitStore, lease: Lease) -> None:
    item = work("k")
    outcome = Outcome(
        done=[item, item],
        failures=[Failure(item, "ValueError: no", "trace", 1)],
        dead=[(DeadLetterItem(b"x", "not-json", "error"), 0)],
        forwarded={1: [b"a"], 3: [b"b", b"c"]},
        delayed=[Delayed(b"l", FAR)],
        skipped=[Skipped(b"s", Headers("t", "i"), "revoked")],
    )
    commit = commit_of(lease, [], commands=commands_of_outcome(outcome, store.names, "2", 0, 0.0))
    assert [store.send(commit).status, store.send(commit).status] == ["ok", "already"]
    assert meta(store) == {
        b"commit_number": b"1",
        b"processed": b"2",
        b"failed": b"1",
        b"dead": b"1",
        b"forwarded": b"3",
        b"delayed": b"1",
        b"skipped": b"1",
    }


def test_an_empty_outcome_writes_nothing(store: CommitStore) -> None:
    assert commands_of_outcome(Outcome(), store.names, "2", 0, 0.0) == []


def test_a_dead_letter_keeps_reason_trace_identity_and_the_raw_bytes(store: CommitStore, lease: Lease) -> None:
    raw = b"\xff\x00 not json"
    outcome = Outcome(
        dead=[
            (DeadLetterItem(raw, "not-json", "error", "trace", "totals", "id-1", "\udcffé"), 4),
            (DeadLetterItem(b"y", "unknown-task", "error"), 0),
        ]
    )
    write(store, lease, outcome, commit_number=0, now=12.5)
    rows: dict[bytes, bytes] = store.client.hgetall("{partition.2}:dead")  # type: ignore[assignment]
    dead_letter: dict[str, Any] = msgspec.json.decode(rows[b"2-0-0"])
    assert base64.b64decode(dead_letter.pop("raw")) == raw
    assert dead_letter == {
        "id": "2-0-0",
        "partition": "2",
        "reason": "not-json",
        "error": "error",
        "trace": "trace",
        "task": "totals",
        "message_id": "id-1",
        "key": "\\xffé",
        "attempts": 4,
        "died_at": 12.5,
        "in_place": False,
        "apart": False,
    }
    assert msgspec.json.decode(rows[b"2-0-1"])["task"] is None


def test_a_parked_key_has_its_next_attempt_its_time_and_the_reason(
    client: redis.Redis, store: CommitStore, lease: Lease, names: Names
) -> None:
    failure = Failure(work("\udcff"), "ValueError: no", "the trace", 2)
    fact = ParkedKey(104.0, 3, "ValueError: no", "the trace", message_id="id-1", task="totals", since=90.0)
    outcome = Outcome(parked={"\udcff": Park(failure, 4.0, False)}, mailed={"\udcff": [b"a", b"b"]})
    write(store, lease, outcome, parked={"\udcff": fact})
    assert parked_in(client, names) == {"\udcff": fact}
    assert index(client, names) == {b"\xff": 104_000.0}
    assert read_mailbox(client, names, "2", "\udcff", 1) == ([b"a"], 2)
    assert read_mailbox(client, names, "2", "\udcff", 9) == ([b"a", b"b"], 2)
    assert mailbox_lengths(client, names, "2", ["\udcff", "none"]) == {"\udcff": 2, "none": 0}
    assert not client.exists("{partition.2}:dead")


def test_a_parked_key_without_retries_has_an_in_place_dead_letter(
    store: CommitStore, lease: Lease
) -> None:
    failure = Failure(work("k"), "ValueError: no", "the trace", 4)
    fact = ParkedKey(None, 5, dead_letter="2-0-p0")
    write(store, lease, Outcome(parked={"k": Park(failure, None, True)}, mailed={"k": [RAW]}), parked={"k": fact})
    rows: dict[bytes, bytes] = store.client.hgetall("{partition.2}:dead")  # type: ignore[assignment]
    dead_letter = msgspec.json.decode(rows[b"2-0-p0"], type=DeadLetter)
    assert (dead_letter.in_place, dead_letter.reason, dead_letter.key, dead_letter.message_id) == (True, "computation-failed", "k", "id-1")
    assert (base64.b64decode(dead_letter.raw), dead_letter.attempts, dead_letter.error) == (RAW, 4, "ValueError: no")


def test_a_policy_pauses_the_partition_in_the_commit_whose_answer_has_no_messages(
    store: CommitStore, lease: Lease
) -> None:
    fill(store, "partition.2", [b"a", b"b"])
    commands = commands_of_outcome(Outcome(pause=True), store.names, "2", 0, 0.0)
    reply = store.send(commit_of(lease, [b"a"], commands=commands))
    assert (reply.status, reply.paused, reply.messages) == ("ok", True, [])
    assert queued(store, "partition.2") == [b"b"]
    assert store.peek(lease).paused
    store.client.hdel("{partition.2}:meta", "paused")
    assert store.peek(lease).messages == [b"b"]


def test_a_key_is_unparked_or_kept_by_the_commit_that_removes_from_its_mailbox(
    client: redis.Redis, store: CommitStore, lease: Lease, names: Names
) -> None:
    failure = Failure(work("k"), "ValueError: no", "", 1)
    outcome = Outcome(parked={"k": Park(failure, 4.0, False)}, mailed={"k": [b"a", b"b"]})
    write(store, lease, outcome, parked={"k": ParkedKey(54.0, 2)})
    keep = park(names, "2", {"k": ParkedKey(7.0, 1)})
    assert store.send(commit_of(lease, [b"a"], commit_number=1, mailbox_of="k", commands=keep)).status == "ok"
    assert parked_in(client, names) == {"k": ParkedKey(7.0, 1)}
    end = unpark(names, "2", ["k"])
    assert store.send(commit_of(lease, [b"b"], commit_number=2, mailbox_of="k", commands=end)).status == "ok"
    assert parked_in(client, names) == index(client, names) == {}
    assert not client.exists(names.mailbox("2", "k"))


def test_the_index_never_names_a_key_before_it_is_due() -> None:
    assert due_score(ParkedKey(1.0001, 1)) == 1001
    assert due_score(ParkedKey(None, 1)) == "+inf"


def test_a_foreign_record_of_a_parked_key_is_due_at_once(client: redis.Redis, names: Names) -> None:
    client.hset(names.parked("2"), mapping={"a": b"not json", "b": b'{"due": "x"}', "c": b"\xff"})
    assert parked_in(client, names) == dict.fromkeys("abc", ParkedKey(0.0, 1))


def test_computations_are_distinguished_by_name_only(store: CommitStore, lease: Lease) -> None:
    one: Computation = computation("a:b")
    write(store, lease, Outcome(states={one.name: {"k": b"1"}}))
    assert store.client.hget("{partition.2}:state:a:b", "k") == b"1"
