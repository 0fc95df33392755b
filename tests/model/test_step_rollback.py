"""The pure step when a state must be rebuilt: states that cannot be pickled or read back, and messages that cannot run twice."""

from __future__ import annotations

from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.step import step
from celery_partitions.store.codec import StateCodec
from tests.model import counting
from tests.model.build import CODEC, read, rules, run, slots_for, state_after
from tests.model.counting import LOG, SECOND, WITH_CONTEXT, Log, log, message_to

NO_RETRY = rules(retries=0)


@pytest.mark.parametrize("retries", [0, 3])
def test_the_message_that_made_the_state_unpicklable_fails_and_not_those_before_it(retries: int) -> None:
    outcome = run([LOG], [log(0), log(1, "unpicklable"), log(2), log(3, key="other")], by=rules(retries=retries))
    assert state_after(outcome, LOG, "k").entries == [0]
    assert state_after(outcome, LOG, "other").entries == [3]
    assert outcome.mailed == {"k": [log(1, "unpicklable"), log(2)]}
    assert [work.message["n"] for work in outcome.done] == [0, 3] and len(outcome.began) == 2
    assert "lambda" in outcome.parked["k"][0].error and outcome.taken == 4


def test_an_unpicklable_message_is_a_dead_letter_when_no_retry_is_left() -> None:
    outcome = run([LOG], [log(1, "unpicklable"), log(2)], by=NO_RETRY, mailbox_of="k", attempt=2)
    assert [(b.reason, b.message_id) for b, _ in outcome.dead] == [("computation-failed", "id-1")]
    assert state_after(outcome, LOG, "k").entries == [2]


def test_a_state_that_pickles_but_cannot_be_read_back_fails_the_message_that_made_it() -> None:
    outcome = run([LOG], [log(0), log(1, "pickles only"), log(2), log(3, "raise")], by=NO_RETRY)
    assert state_after(outcome, LOG, "k").entries == [0]
    assert outcome.mailed == {"k": [log(1, "pickles only"), log(2), log(3, "raise")]}
    assert "unpickled" in outcome.parked["k"][0].error and not outcome.dead


def test_messages_on_both_sides_of_failures_all_count_once() -> None:
    raws = [log(n, "raise" if n % 3 == 1 else "") for n in range(12)]
    outcome = run([LOG], raws, by=NO_RETRY)
    assert state_after(outcome, LOG, "k").entries == [n for n in range(12) if n % 3 != 1]
    assert [broken.message_id for broken, _ in outcome.dead] == [f"id-{n}" for n in range(12) if n % 3 == 1]


def test_a_replay_starts_from_the_stored_state() -> None:
    before = Log()
    before.entries = ["stored"]
    outcome = run([LOG], [log(0), log(1, "raise")], by=NO_RETRY, stored={"log": {"k": CODEC.dump(LOG, "k", before)}})
    assert state_after(outcome, LOG, "k").entries == ["stored", 0]


def test_a_replayed_message_is_decoded_again_not_reused_after_the_first_call() -> None:
    outcome = run([LOG], [log(0, "spoil message"), log(1, "raise")], by=NO_RETRY)
    assert state_after(outcome, LOG, "k").entries == [0]


def test_a_replayed_message_sees_the_same_context() -> None:
    run([WITH_CONTEXT], [message_to("with context", 0), message_to("with context", 1, "raise")], by=NO_RETRY)
    first, failed, again = counting.seen
    assert first == again and failed.message_id == "id-1"


def test_a_message_that_cannot_run_twice_is_rolled_back_with_all_later_ones() -> None:
    outcome = run([LOG], [log(0), log(1, "once"), log(2), log(3, "raise"), log(4), log(5, key="other")])
    assert state_after(outcome, LOG, "k").entries == [0]
    assert state_after(outcome, LOG, "other").entries == [5]
    assert outcome.mailed == {"k": [log(1, "once"), log(2), log(3, "raise"), log(4)]}
    assert outcome.parked["k"][0].item.raw == log(1, "once")
    assert [work.message["n"] for work in outcome.done] == [0, 5]


def test_a_new_key_whose_only_good_message_is_rolled_back_gets_no_state() -> None:
    outcome = run([LOG], [log(0, "once"), log(1, "raise")])
    assert outcome.states["log"] == {} and outcome.mailed == {"k": [log(0, "once"), log(1, "raise")]}


def test_rolling_back_one_keys_messages_keeps_the_replay_of_others_correct() -> None:
    raws = [log(1, "once", key="b"), log(0, key="a"), log(2, "raise", key="a"), log(3, key="a")]
    raws += [log(4, "raise", key="b"), log(5, "raise", key="a"), log(6, key="a"), message_to("second", 7, key="a")]
    outcome = run([LOG, SECOND], raws, by=NO_RETRY)
    assert state_after(outcome, LOG, "a").entries == [0, 3, 6]
    assert state_after(outcome, SECOND, "a").entries == [7]
    assert state_after(outcome, LOG, "b") is None
    assert [broken.message_id for broken, _ in outcome.dead] == ["id-2", "id-5"]


def test_a_state_in_memory_that_is_unreadable_in_redis_is_dropped_without_loss() -> None:
    raws = [log(0), log(1, "raise"), log(2), log(3, key="other")]
    items = read([LOG], raws)
    slots = slots_for(items, {})
    slots["log"]["k"].stored = StateCodec((b"another secret",)).dump(LOG, "k", Log())  # type: ignore[union-attr]
    outcome = step(items, slots, NO_RETRY)
    assert [broken.raw for broken, _ in outcome.dead] == raws[:3]
    assert {broken.reason for broken, _ in outcome.dead} == {"unreadable-state"}
    assert list(outcome.states["log"]) == ["other"] and outcome.taken == 4


class Flaky:
    made = 0

    def __init__(self) -> None:
        Flaky.made += 1
        if Flaky.made > 3:
            raise OSError("no more")
        self.entries: list[Any] = []


def test_a_state_class_that_cannot_be_created_again_does_not_end_the_step() -> None:
    Flaky.made = 0
    computation = declare(lambda message, state: counting.apply(message, state), name="log", state=Flaky, key=lambda m: m["key"])
    Flaky.made = 2
    outcome = run([computation], [log(0), log(1, "raise"), log(2)], by=NO_RETRY)
    assert [broken.reason for broken, _ in outcome.dead] == ["unreadable-state"] * 3
    assert outcome.taken == 3 and not outcome.states["log"]
