"""Dead letters: list, show, retry, discard; no failure loses one (law 6)."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
import redis

from celery_partitions.admin.dead_letters import DeadLetters, died, raw_text
from celery_partitions.model.items import DeadLetterItem
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.topology import Topology
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from tests.store.declared import commands_of_outcome, commit_of, fill, queued

RAWS = [b"\xff raw", b"two", b"three"]


@pytest.fixture
def dead_letters(client: redis.Redis, names: Names, store: CommitStore, lease: Lease) -> DeadLetters:
    """Three dead letters of partition 2, written by a commit, and one of the ingress."""
    for partition, raws in (("2", RAWS), ("ingress", [b"in"])):
        outcome = Outcome(dead=[(DeadLetterItem(raw, "bad-key", f"error {raw!r}"), 1) for raw in raws])
        commands = commands_of_outcome(outcome, names, partition, 0, 5.0)
        assert store.send(commit_of(lease, [], commit_number=None, commands=commands)).status == "ok"
    return DeadLetters(client, names, Topology(0, 4))


def found(dead_letters: DeadLetters) -> list[str]:
    return sorted(dead_letter.id for dead_letter in dead_letters.all())


def one(dead_letters: DeadLetters, dead_letter_id: str) -> DeadLetter:
    dead_letter = dead_letters.get(dead_letter_id)
    assert dead_letter is not None
    return dead_letter


def test_all_partitions_dead_letters_are_listed(dead_letters: DeadLetters) -> None:
    assert found(dead_letters) == ["2-0-0", "2-0-1", "2-0-2", "ingress-0-0"]


def test_a_dead_letter_is_found_by_its_id(dead_letters: DeadLetters) -> None:
    dead_letter = one(dead_letters, "2-0-0")
    assert (dead_letter.partition, dead_letter.reason, dead_letter.error, dead_letter.attempts) == ("2", "bad-key", r"error b'\xff raw'", 1)
    assert base64.b64decode(dead_letter.raw) == RAWS[0]
    assert raw_text(dead_letter) == r"\xff raw"
    assert one(dead_letters, "ingress-0-0").partition == "ingress"


@pytest.mark.parametrize("dead_letter_id", ["", "-", "2", "2-0-9", "9-0-0", "unknown", "\udcff"])
def test_an_unknown_id_finds_nothing(dead_letters: DeadLetters, dead_letter_id: str) -> None:
    assert dead_letters.get(dead_letter_id) is None


def test_retry_puts_the_raw_bytes_at_the_end_of_their_queue(
    dead_letters: DeadLetters, store: CommitStore
) -> None:
    fill(store, "partition.2", [b"younger"])
    assert dead_letters.retry([one(dead_letters, "2-0-0"), one(dead_letters, "ingress-0-0"), one(dead_letters, "2-0-1")]) == 3
    assert queued(store, "partition.2") == [b"younger", RAWS[0], RAWS[1]]
    assert queued(store, "partition") == [b"in"]
    assert found(dead_letters) == ["2-0-2"]


def test_dead_letters_are_sorted_by_time(dead_letters: DeadLetters, store: CommitStore, lease: Lease) -> None:
    """A hash has no order. Twelve dead letters are from one commit, and their ids do not sort as text. Others are from other commits."""
    for at, commit_number in ((6.0, 12), (6.0, 9), (4.0, 13)):
        dead = [(DeadLetterItem(b"raw", "bad-key", "error"), 1) for _ in range(12)]
        commands = commands_of_outcome(Outcome(dead=dead), dead_letters.names, "1", commit_number, at)
        assert store.send(commit_of(lease, [], commit_number=None, commands=commands)).status == "ok"
    found = sorted((dead_letter for dead_letter in dead_letters.all() if dead_letter.partition == "1"), key=died)
    assert [dead_letter.id for dead_letter in found] == [f"1-{commit_number}-{number}" for commit_number in (13, 9, 12) for number in range(12)]


def test_large_dead_letters_are_read_in_small_portions_and_small_ones_in_large_portions(
    dead_letters: DeadLetters, client: redis.Redis, store: CommitStore, lease: Lease
) -> None:
    def scan(size: int) -> tuple[int, int]:
        """Write dead letters of this size. Returns their number, and the number of round trips to read them."""
        dead = [(DeadLetterItem(b"x" * size, "bad-key", "error"), 1) for _ in range(400)]
        for command in commands_of_outcome(Outcome(dead=dead), dead_letters.names, "1", size, 5.0):
            client.execute_command(*command)
        client.config_resetstat()
        count = len({dead_letter.id for dead_letter in dead_letters.all() if dead_letter.partition == "1"})
        return count, int(cast(Any, client.info("commandstats"))["cmdstat_hscan"]["calls"]) - 4

    count, trips = scan(10)
    assert count == 400 and trips < 20
    client.delete("{partition.1}:dead")
    count, trips = scan(100_000)
    assert count == 400 and trips > 10


def test_any_id_can_be_sorted(dead_letters: DeadLetters, client: redis.Redis) -> None:
    row = client.hget("{partition.2}:dead", "2-0-0") or b""
    for dead_letter_id in ("9" * 5000, "\u0665", ""):
        client.hset("{partition.2}:dead", dead_letter_id, row.replace(b"2-0-0", dead_letter_id.encode()))  # type: ignore[arg-type]
    assert [dead_letter.id for dead_letter in sorted(dead_letters.all(), key=died)][-1] == "9" * 5000


def test_a_dead_letter_is_put_back_once_by_two_operators(dead_letters: DeadLetters, store: CommitStore) -> None:
    dead_letter = one(dead_letters, "2-0-0")
    assert [dead_letters.retry([dead_letter]), dead_letters.retry([dead_letter])] == [1, 0]
    assert queued(store, "partition.2") == [RAWS[0]]


def test_a_discarded_dead_letter_cannot_be_put_back(dead_letters: DeadLetters, store: CommitStore) -> None:
    dead_letter = one(dead_letters, "2-0-0")
    assert [dead_letters.discard([dead_letter]), dead_letters.discard([dead_letter]), dead_letters.retry([dead_letter])] == [1, 0, 0]
    assert queued(store, "partition.2") == []
    assert found(dead_letters) == ["2-0-1", "2-0-2", "ingress-0-0"]


def test_a_dead_letter_whose_queue_cannot_be_written_stays_a_dead_letter(dead_letters: DeadLetters, client: redis.Redis) -> None:
    client.set("partition.2", "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        dead_letters.retry([one(dead_letters, "2-0-0")])
    assert "2-0-0" in found(dead_letters)
    client.delete("partition.2")
    assert dead_letters.retry([one(dead_letters, "2-0-0")]) == 1


@pytest.mark.parametrize("row", [b"not json", b"\xff", b'{"id": 1}', b"{}"])
def test_a_foreign_record_is_shown_and_can_be_discarded_by_its_id(
    dead_letters: DeadLetters, client: redis.Redis, row: bytes
) -> None:
    client.hset("{partition.2}:dead", "by hand", row)  # type: ignore[arg-type]
    dead_letter = next(dead_letter for dead_letter in dead_letters.all() if dead_letter.reason == "unreadable-record")
    assert (dead_letter.id, dead_letter.partition, base64.b64decode(dead_letter.raw)) == ("by hand", "2", row)
    assert dead_letters.get("by hand") == dead_letter
    assert dead_letters.discard([dead_letter]) == 1
    assert found(dead_letters) == ["2-0-0", "2-0-1", "2-0-2", "ingress-0-0"]


def test_a_dead_letter_with_a_damaged_raw_message_counts_as_a_foreign_record(dead_letters: DeadLetters, client: redis.Redis) -> None:
    row = client.hget("{partition.2}:dead", "2-0-1")
    spoiled = row.replace(base64.b64encode(RAWS[1]), b"%%%")  # type: ignore[union-attr]
    client.hset("{partition.2}:dead", "2-0-1", spoiled)
    assert one(dead_letters, "2-0-1").reason == "unreadable-record"
    assert dead_letters.retry([one(dead_letters, "2-0-1")]) == 1


def test_hundreds_of_dead_letters_are_scanned_each_once(dead_letters: DeadLetters, client: redis.Redis) -> None:
    row = client.hget("{partition.2}:dead", "2-0-1")
    assert isinstance(row, bytes)
    for number in range(700):
        client.hset("{partition.1}:dead", f"1-{number}-0", row.replace(b"2-0-1", b"1-%d-0" % number))
    assert len(found(dead_letters)) == len(set(found(dead_letters))) == 704
