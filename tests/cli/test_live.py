"""Operators act while real workers own the partitions: nothing is silently overwritten, and each key's order is kept."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from celery_partitions.admin.drain import drain, undrain
from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.pause import pause, resume
from celery_partitions.admin.transfer import Message, StateRecord, read_records
from celery_partitions.admin.workers import read_workers
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import partition_of
from celery_partitions.model.messages import open_envelope
from celery_partitions.model.policy import PolicyChange
from tests.fundamentals.application import Attempt, Deed, Sequence, Step, fail, record, witness
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until

_numbers = count()
#: Replaces the previous state.
REPAIRED = 1000


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    """Two workers, one retry, then a long wait. Leases are renewed rarely, so a quick reaction proves a notification."""
    env = {
        "PARTITIONS": 4,
        "PARTITIONS_LEASE_SECONDS": 60,
        "PARTITIONS_RETRY_ATTEMPTS": 1,
        "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.1,
        "PARTITIONS_RETRY_EXHAUSTED": "hold",
    }
    with RedisServer() as server, LiveGroup(server.url(), tmp_path_factory.mktemp("live"), **env) as live:
        live.start_workers(2)
        yield live
        live.print_logs()


def partition_of_queue(key: str) -> str:
    return str(partition_of(key, 4))


def wait_numbers(live: LiveGroup, computation: Any, key: str, numbers: list[int]) -> None:
    wait_until(lambda: live.numbers_of(computation, key) == numbers, PATIENCE_SECONDS, message=f"{key} is not {numbers}")


def repair(live: LiveGroup, computation: Any, key: str, numbers: list[int]) -> None:
    """Set a state in the same way as `state set`."""
    editor, state = live.group.state_editor, Sequence()
    state.numbers = numbers
    wait_until(lambda: editor.set(editor.see(computation.computation, key), state, by="me") == "ok")


def held(live: LiveGroup, key: str) -> ParkedKey:
    """Wait until the key's retries are used up; returns the parked key."""

    def look() -> ParkedKey | None:
        found = live.group.parked_keys.get(key)
        return found if found is not None and found.due is None else None

    return wait_until(look, PATIENCE_SECONDS, message="the key is not held")


def test_a_state_that_an_idle_worker_holds_is_replaced(live: LiveGroup, key: str) -> None:
    live.send(record, [Step(key, 1), Step(key, 2)])
    wait_numbers(live, record, key, [1, 2])
    repair(live, record, key, [REPAIRED])
    live.send(record, [Step(key, 3)])
    wait_numbers(live, record, key, [REPAIRED, 3])


def test_a_state_that_an_idle_worker_holds_is_deleted(live: LiveGroup, key: str) -> None:
    live.send(record, [Step(key, 1)])
    wait_numbers(live, record, key, [1])
    editor = live.group.state_editor
    assert editor.delete(editor.see(record.computation, key), by="me") == "ok"
    live.send(record, [Step(key, 2)])
    wait_numbers(live, record, key, [2])


def test_a_change_during_a_batch_refuses_its_commit_and_messages_are_applied_to_the_new_state(
    live: LiveGroup, key: str
) -> None:
    number = REPAIRED + next(_numbers)
    live.send(witness, [Deed(key, number, seconds=1.0)])
    wait_until(lambda: any(line.endswith(f":{number}") for line in live.witnessed()), PATIENCE_SECONDS)
    repair(live, witness, key, [REPAIRED])
    assert live.numbers_of(witness, key) == [REPAIRED], "set while the computation ran"
    wait_numbers(live, witness, key, [REPAIRED, number])
    assert sum(line.endswith(f":{number}") for line in live.witnessed()) == 2, "it also ran on the old state"


def test_a_held_key_is_repaired_and_retried_in_place(live: LiveGroup, key: str) -> None:
    live.send(fail, [Attempt(key, 1), Attempt(key, 2, fail=True), Attempt(key, 3)])
    assert held(live, key).waiting == 2
    # Nothing is fixed yet: it fails again and waits in place.
    assert live.group.parked_keys.retry(key, by="me") == "ok"
    assert (live.numbers_of(fail, key), held(live, key).waiting) == ([1], 2)
    # Simulates a new release of the computation: another message in the same position.
    mailbox: Any = live.names.mailbox(partition_of_queue(key), key)
    message = json.loads(live.client.lindex(mailbox, -1))  # type: ignore[arg-type]
    repaired = base64.b64decode(message["body"]).replace(b"true", b"false")
    live.client.lset(mailbox, -1, json.dumps({**message, "body": base64.b64encode(repaired).decode()}))
    (dead_letter,) = [dead_letter for dead_letter in live.dead_letters() if dead_letter.key == key]
    assert live.group.dead_letters.retry([dead_letter], by="me") == 1
    wait_numbers(live, fail, key, [1, 2, 3])
    assert [dead_letter for dead_letter in live.dead_letters() if dead_letter.key == key] == []


@pytest.mark.parametrize(("action", "dead_letters"), [("skip", 1), ("discard", 0)])
def test_after_skip_or_discard_the_key_continues_in_order(live: LiveGroup, key: str, action: str, dead_letters: int) -> None:
    live.send(fail, [Attempt(key, 1), Attempt(key, 2, fail=True), Attempt(key, 3), Attempt(key, 4)])
    held(live, key)
    assert getattr(live.group.parked_keys, action)(key, by="me") == "ok"
    wait_numbers(live, fail, key, [1, 3, 4])
    live.send(fail, [Attempt(key, 5)])
    wait_numbers(live, fail, key, [1, 3, 4, 5])
    found = [dead_letter for dead_letter in live.dead_letters() if dead_letter.key == key]
    assert [dead_letter.in_place for dead_letter in found] == [False] * dead_letters
    assert live.group.parked_keys.get(key) is None


def test_an_in_place_dead_letter_is_discarded_with_its_message(live: LiveGroup, key: str) -> None:
    live.send(fail, [Attempt(key, 1, fail=True), Attempt(key, 2)])
    held(live, key)
    dead_letters = [dead_letter for dead_letter in live.dead_letters() if dead_letter.key == key]
    assert [dead_letter.in_place for dead_letter in dead_letters] == [True]
    assert live.group.dead_letters.discard(dead_letters, by="me") == 1
    wait_numbers(live, fail, key, [2])


def test_a_policy_applies_immediately(live: LiveGroup, key: str) -> None:
    live.group.policies.change("fail", PolicyChange(attempts=0, exhausted="dead_letter"), by="me")
    try:
        wait_until(lambda: fails_at_the_first_attempt(live, key), PATIENCE_SECONDS, every=0.1)
    finally:
        live.group.policies.change("fail", None, by="me")
    # The reset also arrives a moment later, and the next test depends on it.
    wait_until(lambda: not fails_at_the_first_attempt(live, key), PATIENCE_SECONDS, every=0.1)


def fails_at_the_first_attempt(live: LiveGroup, key: str) -> bool:
    """Send a message that fails; returns whether the first attempt was the last. (A notified change may arrive a moment later.)"""
    message = live.send_task("fail", {"key": f"{key}-{next(_numbers)}", "number": 1, "fail": True})
    dead_letter = live.dead_letter_of(message)
    return (dead_letter.attempts, dead_letter.in_place) == (1, False)


def test_a_paused_partition_stops_and_resumes_where_it_was(live: LiveGroup, key: str) -> None:
    partition = partition_of_queue(key)
    live.send(record, [Step(key, 0)])
    wait_numbers(live, record, key, [0])
    assert pause(live.client, live.names, [partition], by="me") == [partition]
    # The worker is notified; until then it may still take messages.
    number = settled(live, key)
    live.send(record, [Step(key, one) for one in range(number, number + 5)])
    other = next(f"{key}-{one}" for one in count() if partition_of_queue(f"{key}-{one}") != partition)
    live.send(record, [Step(other, 1)])
    wait_numbers(live, record, other, [1])
    assert live.numbers_of(record, key) == list(range(number))
    assert resume(live.client, live.names, [partition], by="me") == [partition]
    wait_numbers(live, record, key, list(range(number + 5)))


def settled(live: LiveGroup, key: str) -> int:
    """Send 0, 1, 2, … until a message stays in the queue; returns the next number."""
    for number in count(1):
        live.send(record, [Step(key, number)])
        try:
            wait_until(lambda number=number: len(live.numbers_of(record, key)) > number, timeout=0.3)  # type: ignore[misc]
        except AssertionError:
            live.client.lpop(live.names.queue(partition_of_queue(key)))
            return number
    raise AssertionError


def test_a_drained_worker_releases_its_partitions_and_takes_them_again(live: LiveGroup, key: str) -> None:
    one, two = (worker.node for worker in read_workers(live.client, live.names))
    assert drain(live.client, live.names, one, by="me") == "ok"
    wait_until(lambda: set(live.owners().values()) == {two}, PATIENCE_SECONDS)
    live.send(record, [Step(f"{key}-{number}", number) for number in range(20)])
    for number in range(20):
        wait_numbers(live, record, f"{key}-{number}", [number])
    assert undrain(live.client, live.names, one, by="me") == "ok"
    live.wait_owned(by=2)


def test_an_export_while_a_worker_is_busy_is_consistent(live: LiveGroup, key: str, tmp_path: Path) -> None:
    """In each partition, the numbers applied to a state and the queued ones together are exactly those sent, in order."""
    keys = [f"{key}-{number}" for number in range(8)]
    sent = 4000
    pause(live.client, live.names, ["0", "1", "2", "3"], by="me")
    live.send(record, (Step(one, number) for number in range(sent) for one in keys))
    resume(live.client, live.names, ["0", "1", "2", "3"], by="me")
    exporter = Exporter(live.client, live.names, 4, by="me")
    exporter.write(tmp_path / "all.jsonl", pause_all=False)
    applied, queued = read_export(live, tmp_path / "all.jsonl")
    for one in keys:
        assert applied.get(one, []) + queued.get(one, []) == list(range(sent))
    assert not any(row.paused for row in live.group.status())
    for one in keys:
        wait_numbers(live, record, one, list(range(sent)))


def read_export(live: LiveGroup, path: Path) -> tuple[dict[str, list[int]], dict[str, list[int]]]:
    """Key → the numbers applied to its state, and those in its queue."""
    applied: dict[str, list[int]] = {}
    queued: dict[str, list[int]] = {}
    for one in read_records(path):
        if isinstance(one, StateRecord) and one.computation == record.name:
            key = one.key.decode()
            applied[key] = live.group.codec.load(record.computation, key, one.state).numbers
        elif isinstance(one, Message):
            step = record.computation.codec.decode(open_envelope(one.message).body)
            queued.setdefault(step.key, []).append(step.number)
    return applied, queued
