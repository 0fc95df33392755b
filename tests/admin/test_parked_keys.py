"""Operators' actions on parked keys: retry, skip, discard. The order of a key's messages is kept."""

from __future__ import annotations

import base64
from itertools import count

import msgspec
import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.dead_letters import DeadLetters
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_bytes, partition_of
from celery_partitions.model.own_lines import own_line
from celery_partitions.model.topology import Topology
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.leases import Lease, remember_computations
from celery_partitions.store.names import Names
from tests.store.declared import commit_of, queued
from tests.store.test_states import KEYS

#: A key in the partition whose lease the fixture holds.
KEY = next(f"k{number}" for number in count() if partition_of(f"k{number}", 4) == 2)
FACT = ParkedKey(due=1e12, attempt=3, error="ValueError: no", trace="the trace", message_id="id-1", task="t", since=5.0)


@pytest.fixture
def parked(client: redis.Redis, names: Names) -> ParkedKeys:
    return ParkedKeys(client, names, Topology(0, 4), Audit(client, names))


def park(
    parked: ParkedKeys, key: str = KEY, messages: tuple[bytes, ...] = (b"failed", b"next", b"last"), **fact: object
) -> None:
    """Park a key as a worker does; with `dead letter=` there is an in-place dead letter too."""
    client, names, partition = parked.client, parked.names, str(partition_of(key, 4))
    known = msgspec.structs.replace(FACT, **fact)
    client.hset(names.parked(partition), key_bytes(key), msgspec.json.encode(known))  # type: ignore[arg-type]
    client.lpush(names.mailbox(partition, key), *messages)  # type: ignore[arg-type]
    if known.dead_letter:
        raw = base64.b64encode(messages[0]).decode()
        shown = key_bytes(key).decode("utf-8", "backslashreplace")
        dead_letter = DeadLetter(known.dead_letter, partition, "computation-failed", "ValueError: no", "", "t", "id-1", shown, 4, 6.0, raw, True)
        client.hset(names.dead(partition), known.dead_letter, msgspec.json.encode(dead_letter))  # type: ignore[arg-type]


def mailbox(parked: ParkedKeys, store: CommitStore, key: str = KEY) -> list[bytes]:
    return queued(store, parked.names.mailbox(str(partition_of(key, 4)), key))


def dead_letters(parked: ParkedKeys) -> dict[str, DeadLetter]:
    return {dead_letter.id: dead_letter for dead_letter in DeadLetters(parked.client, parked.names, Topology(0, 4)).all()}


def edit_version(parked: ParkedKeys) -> object:
    return parked.client.hget(parked.names.meta("2"), "edit_version")


def test_parked_keys_are_listed_with_their_waiting_messages(parked: ParkedKeys) -> None:
    for key in KEYS:
        park(parked, key)
    park(parked, "held", due=None)
    found = {one.key: one for one in parked.all()}
    assert found.keys() == {*KEYS, "held"}
    assert all(one.partition == partition_of(key, 4) and one.waiting == 3 for key, one in found.items())
    assert found["held"].due is None
    assert found["a"] == msgspec.structs.replace(FACT, key="a", partition=partition_of("a", 4), waiting=3)
    assert parked.get("a") == found["a"]
    assert parked.get("unknown") is None


def test_hundreds_of_parked_keys_are_scanned_once_each(parked: ParkedKeys) -> None:
    for number in range(1200):
        park(parked, f"k{number}", (b"m",))
    assert sorted(one.key for one in parked.all()) == sorted(f"k{number}" for number in range(1200))


def test_a_foreign_record_is_listed_as_a_parked_key(parked: ParkedKeys, client: redis.Redis) -> None:
    client.hset(parked.names.parked("2"), KEY, b"\xff{")
    found = parked.get(KEY)
    assert found is not None and (found.attempt, found.waiting) == (1, 0)
    assert parked.retry(KEY, by="me") == "ok"
    assert parked.get(KEY) is None, "nothing waits for it"


@pytest.mark.parametrize("key", [KEY, *KEYS, "a\nb"])
def test_retry_makes_the_first_message_due_now_in_place_with_all_attempts(
    parked: ParkedKeys, store: CommitStore, key: str
) -> None:
    park(parked, key, dead_letter="x-1", due=None)
    assert parked.retry(key, by="me") == "ok"
    found = parked.get(key)
    assert found is not None and found.due is not None
    assert abs(found.due - parked.client.time()[0]) < 60
    assert (found.attempt, found.dead_letter, found.since) == (1, "x-1", 5.0)
    assert mailbox(parked, store, key) == [b"failed", b"next", b"last"]
    assert dead_letters(parked)["x-1"].in_place, "the engine deletes it when the message succeeds"


@pytest.mark.parametrize("key", [KEY, *KEYS, "a\nb"])
def test_skip_makes_the_in_place_dead_letter_a_normal_one_and_the_key_continues(
    parked: ParkedKeys, store: CommitStore, key: str
) -> None:
    park(parked, key, dead_letter="x-1")
    assert parked.skip(key, by="me") == "ok"
    assert mailbox(parked, store, key) == [b"next", b"last"]
    dead_letter = dead_letters(parked)["x-1"]
    assert (dead_letter.in_place, dead_letter.reason, base64.b64decode(dead_letter.raw)) == (False, "computation-failed", b"failed")
    found = parked.get(key)
    assert found is not None
    assert (found.attempt, found.dead_letter, found.error, found.message_id) == (1, None, "", None)


def test_skip_before_the_retries_are_used_up_makes_a_dead_letter(parked: ParkedKeys) -> None:
    raw = b'{"headers": {"task": "t", "id": "id-1"}}'
    park(parked, KEY, (raw,))
    assert parked.skip(KEY, by="me") == "ok"
    (dead_letter,) = dead_letters(parked).values()
    assert (dead_letter.reason, dead_letter.error, dead_letter.trace, dead_letter.attempts) == ("skipped", FACT.error, FACT.trace, 2)
    assert (dead_letter.task, dead_letter.message_id, dead_letter.key, dead_letter.in_place) == ("t", "id-1", KEY, False)
    assert base64.b64decode(dead_letter.raw) == raw
    assert dead_letter.partition == "2"


def test_discard_deletes_the_message_and_its_dead_letter(parked: ParkedKeys, store: CommitStore) -> None:
    park(parked, dead_letter="x-1")
    assert parked.discard(KEY, by="me") == "ok"
    assert (mailbox(parked, store), dead_letters(parked)) == ([b"next", b"last"], {})


@pytest.mark.parametrize("action", ["skip", "discard"])
def test_a_key_without_messages_is_no_longer_parked(parked: ParkedKeys, client: redis.Redis, action: str) -> None:
    park(parked, KEY, (b"only",), dead_letter="x-1")
    assert getattr(parked, action)(KEY, by="me") == "ok"
    assert parked.get(KEY) is None
    assert not client.exists(parked.names.parked("2"), parked.names.mailbox("2", KEY))  # type: ignore[arg-type]


@pytest.mark.parametrize("action", ["retry", "skip", "discard"])
def test_each_action_is_audited_and_refuses_a_message_that_a_worker_is_processing(
    parked: ParkedKeys, store: CommitStore, lease: Lease, action: str
) -> None:
    park(parked, dead_letter="x-1")
    reply = store.peek(lease)
    assert getattr(parked, action)(KEY, by="me@here") == "ok"
    (record,) = parked.audit.last(10)
    assert (record.who, record.what, record.detail["key"]) == ("me@here", f"parked {action}", KEY)
    assert (record.detail["error"], record.detail["message_id"], record.detail["dead_letter"]) == (FACT.error, "id-1", "x-1")
    before = mailbox(parked, store)
    commit = commit_of(lease, [b"failed"], commit_number=reply.commit_number, edit_version=reply.edit_version, mailbox_of=KEY)
    assert store.send(commit).status == "stale"
    assert mailbox(parked, store) == before


@pytest.mark.parametrize("action", ["retry", "skip", "discard"])
def test_a_key_that_is_not_parked_is_left_alone(parked: ParkedKeys, action: str) -> None:
    assert getattr(parked, action)(KEY, by="me") == "not-parked"
    assert (edit_version(parked), parked.audit.last(1)) == (None, [])


@pytest.mark.parametrize("action", ["skip", "discard"])
def test_an_empty_mailbox_has_nothing_to_take(parked: ParkedKeys, client: redis.Redis, action: str) -> None:
    client.hset(parked.names.parked("2"), KEY, msgspec.json.encode(FACT))
    assert getattr(parked, action)(KEY, by="me") == "not-failed"


@pytest.mark.parametrize("action", ["skip", "discard"])
def test_a_repeated_action_does_not_take_the_next_message(
    parked: ParkedKeys, store: CommitStore, action: str
) -> None:
    park(parked)
    assert [getattr(parked, action)(KEY, by="me") for _ in range(2)] == ["ok", "not-failed"]
    assert mailbox(parked, store) == [b"next", b"last"]


@pytest.mark.parametrize("action", ["skip", "discard"])
def test_another_message_than_the_operator_saw_stays(parked: ParkedKeys, store: CommitStore, action: str) -> None:
    park(parked)
    for other in ({"message_id": "id-0"}, {"since": 4.0}):
        seen = msgspec.structs.replace(FACT, **other)  # type: ignore[arg-type]
        assert getattr(parked, action)(KEY, by="me", of=seen) == "changed"
    assert mailbox(parked, store) == [b"failed", b"next", b"last"]
    assert getattr(parked, action)(KEY, by="me", of=msgspec.structs.replace(FACT, attempt=9)) == "ok"


class Meddler(redis.Redis):
    """A worker that takes the head of the key's mailbox between the operator's read and the script, `times` times."""

    times = 0

    def execute_command(self, *args: object, **options: object) -> object:
        if args[0] == "EVALSHA" and self.times > 0:
            self.times -= 1
            super().execute_command("RPOP", Names("partition").mailbox("2", KEY))
        return super().execute_command(*args, **options)


@pytest.fixture
def meddler(redis_url: str) -> Meddler:
    client = Meddler.from_url(redis_url)
    yield client
    client.close()


def test_the_message_that_is_taken_is_the_one_that_was_seen(
    meddler: Meddler, names: Names, parked: ParkedKeys, store: CommitStore
) -> None:
    park(parked)
    parked.retry(KEY, by="warm up the script")
    meddler.times = 1
    assert ParkedKeys(meddler, names, Topology(0, 4), parked.audit).skip(KEY, by="me") == "ok"
    assert mailbox(parked, store) == [b"last"]
    (dead_letter,) = dead_letters(parked).values()
    assert base64.b64decode(dead_letter.raw) == b"next", "read again after the script reported another head"


def test_a_key_that_keeps_changing_is_reported(meddler: Meddler, names: Names, parked: ParkedKeys) -> None:
    park(parked, KEY, tuple(b"%d" % number for number in range(50)))
    parked.retry(KEY, by="warm up the script")
    meddler.times = 50
    assert ParkedKeys(meddler, names, Topology(0, 4), parked.audit).discard(KEY, by="me") == "changed"


def test_an_in_place_dead_letter_leads_to_its_key_for_any_key(parked: ParkedKeys) -> None:
    for number, key in enumerate(KEYS):
        park(parked, key, dead_letter=f"x-{number}")
    found = dead_letters(parked)
    for number, key in enumerate(KEYS):
        one = parked.of_dead_letter(found[f"x-{number}"])
        assert one is not None and one.key == key
    assert parked.of_dead_letter(msgspec.structs.replace(found["x-0"], id="gone")) is None


def test_an_in_place_dead_letter_is_retried_in_place(parked: ParkedKeys, store: CommitStore) -> None:
    park(parked, dead_letter="x-1", due=None)
    store_of_dead_letters = DeadLetters(parked.client, parked.names, Topology(0, 4))
    assert store_of_dead_letters.retry(list(dead_letters(parked).values()), by="me") == 1
    assert (mailbox(parked, store), queued(store, "partition.2")) == ([b"failed", b"next", b"last"], [])
    found = parked.get(KEY)
    assert found is not None and found.due is not None


def test_discarding_an_in_place_dead_letter_lets_the_key_continue(parked: ParkedKeys, store: CommitStore) -> None:
    park(parked, dead_letter="x-1", due=None)
    assert DeadLetters(parked.client, parked.names, Topology(0, 4)).discard(list(dead_letters(parked).values()), by="me") == 1
    assert (mailbox(parked, store), dead_letters(parked)) == ([b"next", b"last"], {})


def test_an_in_place_dead_letter_whose_message_is_gone_is_not_sent_again(parked: ParkedKeys) -> None:
    park(parked, dead_letter="x-1")
    (dead_letter,) = dead_letters(parked).values()
    parked.discard(KEY, by="other")
    assert DeadLetters(parked.client, parked.names, Topology(0, 4)).retry([dead_letter], by="me") == 0


def test_no_action_is_possible_for_a_key_whose_call_is_in_flight(parked: ParkedKeys) -> None:
    park(parked, reason="running")
    before = edit_version(parked)
    assert parked.retry(KEY, by="me") == parked.skip(KEY, by="me") == parked.discard(KEY, by="me") == "running"
    assert edit_version(parked) == before


def test_what_waits_of_a_key_is_found_without_reading_all_parked_keys(parked: ParkedKeys) -> None:
    """A key's page, the search and `parked retry KEY` ask for it."""
    client, names = parked.client, parked.names
    remember_computations(client, names, ["pay", "ship", "bill"])
    park(parked)
    for computation in ("pay", "bill"):
        client.hset(names.parked("2"), key_bytes(own_line(KEY, computation)), msgspec.json.encode(FACT))  # type: ignore[arg-type]
    client.config_resetstat()
    assert [one.key for one in parked.of_key(KEY)] == [KEY, own_line(KEY, "pay"), own_line(KEY, "bill")]
    assert parked.of_key("another") == []
    assert not {"cmdstat_hscan", "cmdstat_hgetall"} & set(client.info("commandstats"))
