"""The pure step without failures: order, one state per key, limits, and messages that are not applied."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_partitions.model.computation import Context
from celery_partitions.model.items import PlainTask
from celery_partitions.model.keys import partition_of
from celery_partitions.model.outcome import Unreadable
from celery_partitions.model.step import step
from tests.model import counting
from tests.model.build import CODEC, raw_message, read, rules, run, slots_for, state_after
from tests.model.counting import LOG, SECOND, STATELESS, WITH_CONTEXT, Log, log, message_to


def bytes_of(*entries: object, key: str = "k") -> bytes:
    state = Log()
    state.entries = list(entries)
    return CODEC.dump(LOG, key, state)


def test_messages_of_one_key_are_applied_in_queue_order() -> None:
    outcome = run([LOG], [log(n) for n in range(50)])
    assert state_after(outcome, LOG, "k").entries == list(range(50))
    assert outcome.taken == 50


def test_messages_of_many_keys_keep_the_order_of_each() -> None:
    raws = [log(n, key=str(n % 7)) for n in range(70)]
    outcome = run([LOG], raws)
    for key in range(7):
        assert state_after(outcome, LOG, str(key)).entries == list(range(key, 70, 7))
    assert [work.raw for work in outcome.done] == raws


def test_a_stored_state_is_continued() -> None:
    outcome = run([LOG], [log(2)], stored={"log": {"k": bytes_of(0, 1)}})
    assert state_after(outcome, LOG, "k").entries == [0, 1, 2]


def test_two_computations_of_one_key_have_separate_states() -> None:
    outcome = run([LOG, SECOND], [log(0), message_to("second", 1), log(2), message_to("second", 3)])
    assert state_after(outcome, LOG, "k").entries == [0, 2]
    assert state_after(outcome, SECOND, "k").entries == [1, 3]


def test_messages_of_a_state_that_can_not_be_read_wait_with_all_later_ones_of_the_key() -> None:
    items = read([LOG, SECOND], [message_to("second", 0), log(1), message_to("second", 2), log(3, key="good"), log(4)])
    slots = slots_for(items, {})
    slots["log"]["k"] = Unreadable("its class has moved")
    outcome = step(items, slots, replace(rules(), unreadable_waits=True))
    assert outcome.mailed == {"k": [items[at].raw for at in (1, 2, 4)]}
    (waiting,) = outcome.waiting.values()
    assert (waiting.reason, waiting.error, waiting.message_id, waiting.attempt) == ("unreadable-state", "its class has moved", "id-1", 1)
    assert state_after(outcome, SECOND, "k").entries == [0] and state_after(outcome, LOG, "good").entries == [3]
    assert not outcome.dead and outcome.taken == 5


def test_only_states_that_changed_are_written() -> None:
    items = read([LOG], [log(1, key="a"), log(2, key="b")])
    slots = slots_for(items, {"log": {"a": bytes_of(key="a"), "b": bytes_of(key="b")}})
    forgetful = read([LOG], [log(1, key="a")])
    step(items, slots, rules())
    slots["log"]["a"].stored = CODEC.dump(LOG, "a", slots["log"]["a"].state)  # type: ignore[union-attr]
    slots["log"]["a"].state.entries.pop()  # type: ignore[union-attr]
    assert step(forgetful, slots, rules()).states == {"log": {}}


def test_a_computation_may_change_its_message() -> None:
    outcome = run([LOG], [log(1, "spoil message"), log(2), log(3, "raise")])
    assert state_after(outcome, LOG, "k").entries == [1, 2]


def test_a_stateless_computation_is_called_in_order_and_writes_no_state() -> None:
    outcome = run([STATELESS], [message_to("stateless", n) for n in range(3)])
    assert counting.seen == [(0, 1), (1, 1), (2, 1)]
    assert not any(outcome.states.values()) and len(outcome.done) == 3


def test_the_context_describes_the_message() -> None:
    run([WITH_CONTEXT], [message_to("with context", 1, key="a", sent_at=12.5), message_to("with context", 2, key="a")])
    seen = [(one.key, one.message_id, one.partition, one.sent_at, one.attempt, dict(one.resources)) for one in counting.seen]
    assert seen == [("a", "id-1", 0, 12.5, 1, {}), ("a", "id-2", 0, None, 1, {})]
    assert all(isinstance(one, Context) for one in counting.seen)
    assert repr(counting.seen[0]) == "Context(key='a', message_id='id-1', partition=0, sent_at=12.5, attempt=1)"


@pytest.mark.parametrize("sent_at", ["yesterday", [], None])
def test_an_invalid_time_of_sending_is_unknown(sent_at: object) -> None:
    run([WITH_CONTEXT], [message_to("with context", 1, sent_at=sent_at)])
    assert counting.seen[0].sent_at is None


def test_a_step_ends_when_its_time_is_over_and_keeps_its_results() -> None:
    ticks = iter(range(1000))
    outcome = run([LOG], [log(n) for n in range(10)], by=rules(clock=lambda: float(next(ticks)), seconds=3.0))
    assert outcome.taken == 4
    assert state_after(outcome, LOG, "k").entries == [0, 1, 2, 3]
    assert outcome.began == [0.0, 1.0, 2.0, 3.0] and outcome.ended > 3.0


def test_a_step_applies_at_least_one_message_however_slow() -> None:
    ticks = iter(range(0, 1000, 100))
    outcome = run([LOG], [log(0), log(1)], by=rules(clock=lambda: float(next(ticks)), seconds=0.0))
    assert outcome.taken == 1 and state_after(outcome, LOG, "k").entries == [0]


def test_a_plain_task_ends_the_step_before_it() -> None:
    items = read([LOG], [log(0), raw_message("mail", 1), log(2)], plain_task={"mail"})
    outcome = step(items, slots_for(items, {}), rules())
    assert outcome.taken == 1 and isinstance(outcome.plain_task, PlainTask)
    assert state_after(outcome, LOG, "k").entries == [0]


def test_messages_that_are_not_work_are_passed_on_in_order_and_removed() -> None:
    mine = [log(n, key=f"k{n}") for n in range(20)]
    delayed, expired = message_to("log", 90, eta=5_000), message_to("log", 91, expires=1)
    raws = [b"rubbish", delayed, *mine, raw_message("count", 1), expired]
    items = read([LOG], raws, partitions=2)
    outcome = step(items, slots_for(items, {}), rules())
    assert outcome.taken == len(raws)
    assert [broken.raw for broken, _ in outcome.dead] == [b"rubbish", raws[-2]]
    assert [(delayed.raw, delayed.due) for delayed in outcome.delayed] == [(delayed, 5_000)]
    assert [(skipped.raw, skipped.why) for skipped in outcome.skipped] == [(expired, "expired")]
    applied = [work.raw for work in outcome.done]
    assert applied == [raw for n, raw in enumerate(mine) if partition_of(f"k{n}", 2) == 0]
    assert outcome.forwarded == {1: [raw for raw in mine if raw not in applied]}


def test_messages_of_an_unreadable_state_become_dead_letters_and_other_keys_continue() -> None:
    items = read([LOG], [log(0, key="bad"), log(1, key="good"), log(2, key="bad")])
    slots = slots_for(items, {})
    slots["log"]["bad"] = Unreadable("the state's signature is wrong")
    outcome = step(items, slots, rules())
    assert [(b.reason, b.error, b.key, b.message_id) for b, _ in outcome.dead] == [
        ("unreadable-state", "the state's signature is wrong", "bad", "id-0"),
        ("unreadable-state", "the state's signature is wrong", "bad", "id-2"),
    ]
    assert list(outcome.states["log"]) == ["good"] and outcome.taken == 3
