"""Thousands of parked keys: the queue keeps its share of turns, and the cost of a retry does not grow with their number."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from celery_partitions.model.effects import ParkedKey
from celery_partitions.store.leases import Lease
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import State
from celery_partitions.worker.retries import MAX_TOGETHER
from tests.fundamentals.application import Attempt, Step, fail, record
from tests.fundamentals.live import LiveGroup
from tests.support.applications.trouble import BROKEN, Trouble, policed
from tests.worker.by_hand import LoopByHand, loop_by_hand

KEYS = 300


@pytest.fixture
def live(make_live: Callable[..., LiveGroup]) -> LiveGroup:
    """A parked key is retried immediately, forever."""
    return make_live(PARTITIONS=1, PARTITIONS_BATCH_SECONDS=60, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_LONGEST_BACKOFF_SECONDS=0.001)


@pytest.fixture
def loop(live: LiveGroup, caplog: pytest.LogCaptureFixture) -> Iterator[LoopByHand]:
    with loop_by_hand(live) as loop:
        live.send(fail, [Attempt(f"key-{number}", 0, fail=True) for number in range(KEYS)])
        loop.work(loop.owned)
        loop.commits.settle()
        assert len(loop.owned.parked) == KEYS
        caplog.clear()
        yield loop


def turn(loop: LoopByHand) -> None:
    owned = loop.owned
    loop.work(owned)
    loop.commits.settle()


def test_the_queue_does_not_wait_for_the_retries(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(record, [Step("innocent", number) for number in range(100)])
    loop.owned.look_again()
    turns = 0
    while live.numbers_of(record, "innocent") != list(range(100)):
        turn(loop)
        turns += 1
    assert turns < 10


def test_retries_do_not_wait_for_a_queue_that_is_never_empty(live: LiveGroup, loop: LoopByHand) -> None:
    retried = 0
    for number in range(100):
        live.send(record, [Step("innocent", number)])
        loop.owned.look_again()
        attempts = sum(known.attempt for known in loop.owned.parked.values())
        turn(loop)
        retried += sum(known.attempt for known in loop.owned.parked.values()) - attempts
    assert retried > 5


def test_a_retry_does_not_read_the_queue_again(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(record, [Step("innocent", number) for number in range(100)])
    loop.owned.look_again()
    asked = []
    for _ in range(6):
        owned = loop.owned
        owned.retries_lead = -1.0
        loop.work(owned)
        assert loop.commits.pending is not None
        assert loop.commits.pending.planned.retried
        asked.append(loop.commits.pending.planned.commit.ask)
        loop.commits.settle()
        assert len(owned.messages) == 100
    assert set(asked) == {0}


def test_retries_share_a_commit(live: LiveGroup, loop: LoopByHand) -> None:
    before = loop.owned.commit_number
    while loop.owned.commit_number < before + KEYS // MAX_TOGETHER:
        turn(loop)
    assert {record.attempt for record in loop.owned.parked.values()} == {3}
    assert len({record.dead_letter for record in loop.owned.parked.values()}) == len(live.dead_letters()) == KEYS


def test_each_key_keeps_its_order_whatever_becomes_of_the_others(live: LiveGroup, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each key's first message fails while `BROKEN` is set; those of every third key fail always, and every fourth has messages of two tasks."""
    monkeypatch.setenv("REDIS_URL", live.env["REDIS_URL"])
    live.client.set(BROKEN, 1)
    names = [f"key-{number}" for number in range(60)]
    failing, mixed = set(names[::3]), set(names[::4])
    with loop_by_hand(live) as loop:
        live.send(policed, [Trouble(key, 0, "fail") for key in names if key not in failing])
        live.send(fail, [Attempt(key, 0, fail=True) for key in failing])
        for number in range(1, 5):
            live.send(record, [Step(key, number) for key in mixed])
            live.send(policed, [Trouble(key, number) for key in names])
        turn(loop)
        live.client.delete(BROKEN)
        before = loop.owned.commit_number
        while set(loop.owned.parked) != failing:
            turn(loop)
        assert loop.owned.commit_number - before < 20
    well = [key for key in names if key not in failing]
    assert live.numbers(policed) == {key: [0, 1, 2, 3, 4] for key in well}
    assert live.numbers(record) == {key: [1, 2, 3, 4] for key in well if key in mixed}
    for key in names:
        waiting = live.client.llen(live.names.mailbox("0", key))  # type: ignore[arg-type]
        assert waiting == (0 if key in well else 9 if key in mixed else 5)


def owned_of(**dues: float | None) -> OwnedPartition:
    owned = OwnedPartition(Lease("0", 1), time.monotonic, state=State.PEEKED)
    owned.take_parked({key: ParkedKey(due, 1) for key, due in dues.items()}, dict.fromkeys(dues, 1))
    return owned


def test_the_longest_overdue_key_is_first() -> None:
    assert owned_of(a=3.0, b=1.0, held=None, c=2.0).first_due == (1.0, "b")
    assert owned_of(held=None).first_due is None


def test_a_key_that_was_parked_again_or_unparked_is_not_due_at_its_old_time() -> None:
    owned = owned_of(a=1.0, b=2.0, c=3.0)
    owned.parked["a"] = ParkedKey(9.0, 2)
    del owned.parked["b"]
    assert owned.first_due == (3.0, "c")
