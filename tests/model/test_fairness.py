"""Which keys of a batch are hot, and what a step does about them, on a clock that the computation moves."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.fairness import LONG_SECONDS, QUICK_SECONDS, TURN_SECONDS, turn_messages
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.step import step
from tests.model.build import raw_message, read, rules, slots_for
from tests.support.applications.sequences import Sequence
from tests.support.applications.slow import Nap, nap_key

clock = [0.0]


def work(nap: Nap, state: Sequence) -> None:
    clock[0] += nap.seconds
    state.numbers.append(nap.number)


WORK = declare(work, name="work", state=Sequence, key=nap_key)
QUICK = declare(work, name="quick", state=Sequence, key=nap_key)


@pytest.fixture(autouse=True)
def from_zero() -> Iterator[None]:
    clock[0] = 0.0
    yield


def raws(*keys: str, seconds: float = 0.001, computation: Computation = WORK) -> list[bytes]:
    return [raw_message(computation.name, {"key": key, "number": number, "seconds": seconds}, f"{key}-{number}") for number, key in enumerate(keys)]


def run(messages: list[bytes], *, seconds: float = 0.2, queue_messages: int = 10**9, mailbox_of: str | None = None) -> Outcome:
    items = read([WORK, QUICK], messages)
    of_clock = replace(rules(), clock=lambda: clock[0], seconds=seconds, queue_messages=queue_messages)
    return step(items, slots_for(items, {}), of_clock, mailbox_of=mailbox_of)


def applied(outcome: Outcome, key: str) -> list[int]:
    return [work.message.number for work in outcome.done if work.key == key]


def test_a_hot_key_lets_the_others_go_first() -> None:
    messages = raws(*["hot"] * 90, *["a", "b"] * 5)
    outcome = run(messages)
    assert outcome.taken == len(messages)
    assert applied(outcome, "a") + applied(outcome, "b") == [90, 92, 94, 96, 98, 91, 93, 95, 97, 99]
    begun = len(applied(outcome, "hot"))
    assert 0 < begun < 10
    assert outcome.mailed == {"hot": messages[begun:90]}
    waiting = outcome.waiting["hot"]
    assert (waiting.reason, waiting.attempt, waiting.task, waiting.message_id) == ("ready", 1, "work", f"hot-{begun}")
    assert outcome.dead == []


@pytest.mark.parametrize(
    "messages",
    [
        pytest.param(raws(*["hot"] * 1900, *["a"] * 100, seconds=QUICK_SECONDS / 2), id="quick calls"),
        pytest.param(raws(*["hot"] * 15, "a"), id="a short batch"),
        pytest.param(raws(*["hot"] * 100), id="nobody else"),
        pytest.param(raws(*["a", "b", "c"] * 40), id="all equal"),
        pytest.param(raws(*["a"] * 12, *[f"k{number}" for number in range(100)]), id="not more than a tenth"),
    ],
)
def test_otherwise_the_queue_keeps_its_order(messages: list[bytes]) -> None:
    outcome = run(messages)
    assert [work.raw for work in outcome.done] == messages
    assert outcome.waiting == outcome.mailed == {}


def test_time_counts_not_messages() -> None:
    """One slow message in ten, against many quick ones."""
    many = raws(*["many"] * 200, seconds=0.00001, computation=QUICK)
    outcome = run([*raws("slow", seconds=0.02), *many[:10], *raws(*["slow"] * 10, seconds=0.02), *many[10:]])
    assert outcome.waiting.keys() == {"slow"}
    assert len(applied(outcome, "many")) == 200


def test_a_batch_that_becomes_slow_is_looked_at_again() -> None:
    outcome = run([*raws(*["hot"] * 20, seconds=0.0003), *raws(*["hot"] * 200, "a", seconds=0.002)])
    assert outcome.waiting.keys() == {"hot"}
    assert applied(outcome, "a") == [200]


def test_where_a_queue_has_a_limit_a_hot_key_has_it_too() -> None:
    messages = raws(*["hot"] * 90, "a")
    outcome = run(messages, queue_messages=20)
    assert len(outcome.mailed["hot"]) == 20
    assert outcome.taken == len(outcome.done) + 20
    assert outcome.dead == []


def test_the_time_of_a_turn_ends_a_step_of_a_mailbox() -> None:
    outcome = run(raws(*["hot"] * 90), seconds=TURN_SECONDS, mailbox_of="hot")
    assert outcome.taken == len(outcome.done) < 15
    assert outcome.waiting == {}


def test_a_turn_reads_about_what_it_can_process() -> None:
    assert turn_messages(2, 0.0, 200) == 200
    assert turn_messages(10, 10 * TURN_SECONDS, 200) == 2
    assert 5 <= turn_messages(10, 2 * TURN_SECONDS, 200) <= 7
    assert turn_messages(10, LONG_SECONDS * 100, 200) == 2


def test_a_turn_ends_when_others_wait() -> None:
    answers = iter([False, False, True])
    items = read([WORK], raws(*["hot"] * 90))
    of_clock = replace(rules(), clock=lambda: clock[0], seconds=1.0, others_wait=lambda: next(answers))
    outcome = step(items, slots_for(items, {}), of_clock, mailbox_of="hot")
    assert 3 <= outcome.taken == len(outcome.done) <= 7
