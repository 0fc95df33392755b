"""Parked keys and delayed messages are stored in Redis, so they survive the death of their worker."""

from __future__ import annotations

import random
from collections.abc import Callable

from tests.faults import engines
from tests.fundamentals.application import Attempt, Step, fail, record
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.history import check_history
from tests.support.wait import wait_until

KEYS = [f"key-{number}" for number in range(12)]
#: These messages fail at every attempt.
FAILING = frozenset(range(7, 600, 41))


def attempts(messages: int) -> list[Attempt]:
    return [Attempt(KEYS[number % 12], number, fail=number in FAILING) for number in range(messages)]


def check(live: LiveGroup, sent: list[Attempt]) -> None:
    """Successful messages were applied once, in order. Each failing message is one dead letter."""
    live.wait_drained()
    wanted = {key: [one.number for one in sent if one.key == key and not one.fail] for key in KEYS}
    check_history(wanted, live.numbers(fail))
    died = sorted(int(dead_letter.error.split()[1]) for dead_letter in live.dead_letters())
    assert died == sorted(one.number for one in sent if one.fail)
    assert {dead_letter.attempts for dead_letter in live.dead_letters()} <= {2}


def test_killed_while_keys_are_parked(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    live = make_live(redis_url, PARTITIONS_BATCH_MESSAGES=5, PARTITIONS_RETRY_ATTEMPTS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.5)
    live.start_workers(2)
    sent = attempts(600)
    for part in (sent[:200], sent[200:400], sent[400:]):
        live.send(fail, part)
        wait_until(lambda: any(row.parked for row in live.group.status()), every=0.002)
        random.choice([worker for worker in live.workers if worker.running]).kill()
        live.start_worker()
        live.wait_owned(by=2)
    check(live, sent)


def test_killed_between_parking_and_retrying(make_live: Callable[..., LiveGroup], redis_url: str) -> None:
    """Each worker dies after a few commits. Some of these park, some retry, some empty a mailbox."""
    live = make_live(redis_url, PARTITIONS_BATCH_MESSAGES=40, PARTITIONS_RETRY_ATTEMPTS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.05)
    sent = attempts(600)
    live.send(fail, sent)
    for moment in ("begin:after:4", "begin:before:6", "answer:after:9"):
        live.start_worker(module=engines.__name__, DIE_AT=moment).wait(timeout=60)
    live.start_worker()
    check(live, sent)


def test_killed_while_messages_are_delayed(live: LiveGroup) -> None:
    worker = live.start_workers(1)[0]
    for number in range(40):
        live.send_task("record", {"key": "key", "number": number}, countdown=2 + number % 2)
    live.send(record, [Step("key", 40)])
    wait_until(lambda: live.numbers_of(record, "key") == [40])
    wait_until(lambda: sum(row.delayed for row in live.group.status()) == 40)
    worker.kill()
    live.start_worker()
    wait_until(lambda: len(live.numbers_of(record, "key")) >= 41, PATIENCE_SECONDS)
    live.wait_drained()
    assert sorted(live.numbers_of(record, "key")) == list(range(41))
    assert live.numbers_of(record, "key")[0] == 40
