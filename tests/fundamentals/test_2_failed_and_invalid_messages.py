"""Failed, invalid, delayed, expired and revoked messages do not hold up other keys."""

from __future__ import annotations

import json
from base64 import b64decode
from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from celery_partitions import partition_of
from tests.fundamentals.application import Attempt, Step, fail, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

#: The number of a message of another key, which is behind a key's messages in the same partition.
BEHIND = 100


def neighbour_of(key: str) -> str:
    """Another key of the same partition."""
    names = (f"{key}-{number}" for number in range(1000))
    return next(name for name in names if partition_of(name, 4) == partition_of(key, 4))


def queue_of(key: str) -> str:
    return f"partition.{partition_of(key, 4)}"


def test_a_failing_message_holds_up_only_its_own_key(shared: LiveGroup, key: str) -> None:
    neighbour = neighbour_of(key)
    shared.send(fail, [Attempt(key, 1), Attempt(key, 2, fail=True), Attempt(key, 3), Attempt(neighbour, BEHIND)])
    wait_until(lambda: shared.numbers_of(fail, neighbour) == [BEHIND])
    wait_until(lambda: shared.numbers_of(fail, key) == [1, 3])


def test_a_message_that_fails_every_retry_becomes_a_dead_letter_and_leaves_the_state_unchanged(
    shared: LiveGroup, key: str
) -> None:
    shared.send(fail, [Attempt(key, 1)])
    message = shared.send_task("fail", {"key": key, "number": 2, "fail": True})
    shared.send(fail, [Attempt(key, 3)])
    dead_letter = shared.dead_letter_of(message)
    assert (dead_letter.reason, dead_letter.key, dead_letter.attempts) == ("computation-failed", key, 2)
    assert dead_letter.error == "ValueError: 2 fails on purpose"
    assert "raise ValueError" in dead_letter.trace
    wait_until(lambda: shared.numbers_of(fail, key) == [1, 3])


def test_a_dead_letter_can_be_sent_again(shared: LiveGroup, key: str) -> None:
    message = shared.send_task("fail", {"key": key, "number": 1, "fail": True})
    dead_letter = shared.dead_letter_of(message)
    assert shared.group.dead_letters.retry([dead_letter]) == 1
    again = shared.dead_letter_of(message)
    assert again.id != dead_letter.id
    assert shared.group.dead_letters.discard([again]) == 1


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        (b"not JSON", "not-json"),
        (b"[1]", "not-a-message"),
        (b'{"body": "", "headers": {}}', "missing-headers"),
        (b"\xff\x00", "not-json"),
        (b"", "not-json"),
    ],
)
def test_an_invalid_message_becomes_a_dead_letter(shared: LiveGroup, key: str, raw: bytes, reason: str) -> None:
    before = {dead_letter.id for dead_letter in shared.dead_letters()}
    shared.client.lpush(queue_of(key), raw)
    shared.send(record, [Step(key, BEHIND)])
    wait_until(lambda: shared.numbers_of(record, key) == [BEHIND])
    (dead_letter,) = [dead_letter for dead_letter in shared.dead_letters() if dead_letter.id not in before]
    assert dead_letter.reason == reason
    assert shared.group.dead_letters.discard([dead_letter]) == 1


@pytest.mark.parametrize(
    ("task", "arguments", "reason"),
    [
        ("no such task", [1], "unknown-task"),
        ("record", [{"key": "a", "number": "one"}], "wrong-type"),
        ("record", [{"key": "a"}], "wrong-type"),
        ("record", [], "wrong-arguments"),
        ("record", [1, 2], "wrong-arguments"),
    ],
)
def test_a_message_that_no_computation_accepts_becomes_a_dead_letter(
    shared: LiveGroup, key: str, task: str, arguments: list[object], reason: str
) -> None:
    message = shared.send_task(task, *arguments, queue=queue_of(key))
    shared.send(record, [Step(key, BEHIND)])
    assert shared.dead_letter_of(message).reason == reason
    wait_until(lambda: shared.numbers_of(record, key) == [BEHIND])


def test_a_delayed_message_delays_only_itself(shared: LiveGroup, key: str) -> None:
    shared.send_task("record", {"key": key, "number": 1}, countdown=2)
    shared.send(record, [Step(key, 2)])
    wait_until(lambda: shared.numbers_of(record, key) == [2])
    wait_until(lambda: shared.numbers_of(record, key) == [2, 1])


def test_an_expired_message_is_skipped(shared: LiveGroup, key: str) -> None:
    past = datetime.now(UTC) - timedelta(seconds=1)
    shared.send_task("record", {"key": key, "number": 1}, expires=past)
    shared.send_task("record", {"key": key, "number": 2}, expires=3600)
    wait_until(lambda: shared.numbers_of(record, key) == [2])


def test_a_revoked_message_is_skipped(shared: LiveGroup, key: str) -> None:
    revoked = str(uuid4())
    answers = shared.app.control.revoke(revoked, reply=True, timeout=60, limit=2)
    assert len(answers) == 2
    shared.send_task("record", {"key": key, "number": 1}, task_id=revoked)
    shared.send(record, [Step(key, 2)])
    wait_until(lambda: shared.numbers_of(record, key) == [2])


def test_messages_with_a_revoked_stamp_are_skipped(shared: LiveGroup, key: str) -> None:
    answers = shared.app.control.revoke_by_stamped_headers({"order": [key, "another"]}, reply=True, timeout=60, limit=2)
    assert len(answers) == 2
    for number, stamps in enumerate([{"order": key}, {"order": "kept"}, {"other": key}, {"order": ["kept", key]}, {}]):
        options = {"stamped_headers": list(stamps), **stamps} if stamps else {}
        shared.send_task("record", {"key": key, "number": number}, **options)
    wait_until(lambda: len(shared.numbers_of(record, key)) == 3)
    assert shared.numbers_of(record, key) == [1, 2, 4]


def test_a_message_in_another_partitions_queue_is_forwarded(shared: LiveGroup, key: str) -> None:
    wrong = f"partition.{(partition_of(key, 4) + 1) % 4}"
    shared.send_task("record", {"key": key, "number": 1}, queue=wrong)
    wait_until(lambda: shared.numbers_of(record, key) == [1])


def test_messages_to_the_ingress_are_forwarded_in_order(shared: LiveGroup, key: str) -> None:
    for number in range(50):
        shared.send_task("record", {"key": key, "number": number}, queue="partition")
    wait_until(lambda: len(shared.numbers_of(record, key)) == 50)
    assert shared.numbers_of(record, key) == list(range(50))


def test_a_dead_letter_keeps_the_whole_message(shared: LiveGroup, key: str) -> None:
    message = shared.send_task("no such task", {"nested": [1, {"a": None}]}, queue=queue_of(key))
    dead_letter = shared.dead_letter_of(message)
    raw = json.loads(b64decode(dead_letter.raw))
    assert raw["headers"]["id"] == message
    assert dead_letter.task == "no such task"
