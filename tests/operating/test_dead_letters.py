"""Dead letters: list, show, retry, discard; and that no way of failing loses one (law 6)."""

from __future__ import annotations

import base64
from typing import Any, cast

import pytest
import redis

from celery_partitions.model.outcome import Outcome
from celery_partitions.model.reading import Broken
from celery_partitions.operating.dead_letters import DeadLetters, died, raw_text
from celery_partitions.store.commits import CommitStore, commands_of
from celery_partitions.store.leases import Lease
from celery_partitions.store.letters import DeadLetter
from celery_partitions.store.names import Names
from tests.store.declared import commit_of, fill, queued

RAWS = [b"\xff raw", b"two", b"three"]


@pytest.fixture
def letters(client: redis.Redis, names: Names, store: CommitStore, lease: Lease) -> DeadLetters:
    """Three of partition 2, written by a commit, and one of the ingress."""
    for unit, raws in (("2", RAWS), ("ingress", [b"in"])):
        outcome = Outcome(dead=[(Broken(raw, "bad-key", f"error {raw!r}"), 1) for raw in raws])
        commands = commands_of(outcome, names, unit, 0, 5.0)
        assert store.send(commit_of(lease, [], position=None, commands=commands)).status == "ok"
    return DeadLetters(client, names, 4)


def found(letters: DeadLetters) -> list[str]:
    return sorted(letter.id for letter in letters.all())


def one(letters: DeadLetters, letter_id: str) -> DeadLetter:
    letter = letters.get(letter_id)
    assert letter is not None
    return letter


def test_all_units_letters_are_listed(letters: DeadLetters) -> None:
    assert found(letters) == ["2-0-0", "2-0-1", "2-0-2", "ingress-0-0"]


def test_a_letter_is_found_by_its_id(letters: DeadLetters) -> None:
    letter = one(letters, "2-0-0")
    assert (letter.unit, letter.reason, letter.error, letter.attempts) == ("2", "bad-key", r"error b'\xff raw'", 1)
    assert base64.b64decode(letter.raw) == RAWS[0]
    assert raw_text(letter) == r"\xff raw"
    assert one(letters, "ingress-0-0").unit == "ingress"


@pytest.mark.parametrize("letter_id", ["", "-", "2", "2-0-9", "9-0-0", "nobody", "\udcff"])
def test_an_id_that_is_none_finds_nothing(letters: DeadLetters, letter_id: str) -> None:
    assert letters.get(letter_id) is None


def test_retry_puts_the_raw_bytes_at_the_end_of_the_queue_they_died_in(
    letters: DeadLetters, store: CommitStore
) -> None:
    fill(store, "partition.2", [b"younger"])
    assert letters.retry([one(letters, "2-0-0"), one(letters, "ingress-0-0"), one(letters, "2-0-1")]) == 3
    assert queued(store, "partition.2") == [b"younger", RAWS[0], RAWS[1]]
    assert queued(store, "partition") == [b"in"]
    assert found(letters) == ["2-0-2"]


def test_letters_are_sorted_by_when_they_died(letters: DeadLetters, store: CommitStore, lease: Lease) -> None:
    """A hash gives them in no order. Twelve of one commit, whose ids are no texts to be sorted; and those of other positions."""
    for at, position in ((6.0, 12), (6.0, 9), (4.0, 13)):
        dead = [(Broken(b"raw", "bad-key", "error"), 1) for _ in range(12)]
        commands = commands_of(Outcome(dead=dead), letters.names, "1", position, at)
        assert store.send(commit_of(lease, [], position=None, commands=commands)).status == "ok"
    found = sorted((letter for letter in letters.all() if letter.unit == "1"), key=died)
    assert [letter.id for letter in found] == [f"1-{position}-{number}" for position in (13, 9, 12) for number in range(12)]


def test_large_letters_are_read_few_at_a_time_and_small_ones_many(
    letters: DeadLetters, client: redis.Redis, store: CommitStore, lease: Lease
) -> None:
    def scan(size: int) -> tuple[int, int]:
        """How many letters of a size there are then, and in how many round trips they are read."""
        dead = [(Broken(b"x" * size, "bad-key", "error"), 1) for _ in range(400)]
        for command in commands_of(Outcome(dead=dead), letters.names, "1", size, 5.0):
            client.execute_command(*command)
        client.config_resetstat()
        count = len({letter.id for letter in letters.all() if letter.unit == "1"})
        return count, int(cast(Any, client.info("commandstats"))["cmdstat_hscan"]["calls"]) - 4

    count, trips = scan(10)
    assert count == 400 and trips < 20
    client.delete("{partition.1}:dead")
    count, trips = scan(100_000)
    assert count == 400 and trips > 10


def test_any_id_can_be_sorted_by(letters: DeadLetters, client: redis.Redis) -> None:
    row = client.hget("{partition.2}:dead", "2-0-0") or b""
    for letter_id in ("9" * 5000, "\u0665", ""):
        client.hset("{partition.2}:dead", letter_id, row.replace(b"2-0-0", letter_id.encode()))  # type: ignore[arg-type]
    assert [letter.id for letter in sorted(letters.all(), key=died)][-1] == "9" * 5000


def test_a_letter_is_put_back_once_by_two_operators(letters: DeadLetters, store: CommitStore) -> None:
    letter = one(letters, "2-0-0")
    assert [letters.retry([letter]), letters.retry([letter])] == [1, 0]
    assert queued(store, "partition.2") == [RAWS[0]]


def test_a_discarded_letter_can_not_be_put_back(letters: DeadLetters, store: CommitStore) -> None:
    letter = one(letters, "2-0-0")
    assert [letters.discard([letter]), letters.discard([letter]), letters.retry([letter])] == [1, 0, 0]
    assert queued(store, "partition.2") == []
    assert found(letters) == ["2-0-1", "2-0-2", "ingress-0-0"]


def test_a_letter_whose_queue_can_not_be_written_stays_a_dead_letter(letters: DeadLetters, client: redis.Redis) -> None:
    client.set("partition.2", "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        letters.retry([one(letters, "2-0-0")])
    assert "2-0-0" in found(letters)
    client.delete("partition.2")
    assert letters.retry([one(letters, "2-0-0")]) == 1


@pytest.mark.parametrize("row", [b"not json", b"\xff", b'{"id": 1}', b"{}"])
def test_a_record_that_is_not_ours_is_shown_and_can_be_discarded_by_its_id(
    letters: DeadLetters, client: redis.Redis, row: bytes
) -> None:
    client.hset("{partition.2}:dead", "by hand", row)  # type: ignore[arg-type]
    letter = next(letter for letter in letters.all() if letter.reason == "unreadable-record")
    assert (letter.id, letter.unit, base64.b64decode(letter.raw)) == ("by hand", "2", row)
    assert letters.get("by hand") == letter
    assert letters.discard([letter]) == 1
    assert found(letters) == ["2-0-0", "2-0-1", "2-0-2", "ingress-0-0"]


def test_a_letter_whose_raw_message_is_spoiled_is_no_record_of_ours(letters: DeadLetters, client: redis.Redis) -> None:
    row = client.hget("{partition.2}:dead", "2-0-1")
    spoiled = row.replace(base64.b64encode(RAWS[1]), b"%%%")  # type: ignore[union-attr]
    client.hset("{partition.2}:dead", "2-0-1", spoiled)
    assert one(letters, "2-0-1").reason == "unreadable-record"
    assert letters.retry([one(letters, "2-0-1")]) == 1


def test_hundreds_of_letters_are_scanned_each_once(letters: DeadLetters, client: redis.Redis) -> None:
    row = client.hget("{partition.2}:dead", "2-0-1")
    assert isinstance(row, bytes)
    for number in range(700):
        client.hset("{partition.1}:dead", f"1-{number}-0", row.replace(b"2-0-1", b"1-%d-0" % number))
    assert len(found(letters)) == len(set(found(letters))) == 704
