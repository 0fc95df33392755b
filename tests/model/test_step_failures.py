"""The pure step with failing computations: the state is rolled back, and the key is parked or the message becomes a dead letter."""

from __future__ import annotations

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.policy import RetryPolicy
from tests.model import counting
from tests.model.build import rules, run, state_after
from tests.model.counting import LOG, SECOND, STATELESS, WITH_CONTEXT, Log, log, message_to

NO_RETRY = rules(retries=0)
EVERY_FAILURE = ["raise", "exit", "interrupt", "without text", "surrogate", "recurse", "unpicklable", "pickles only"]
RAISING = EVERY_FAILURE[:6]


@pytest.mark.parametrize("do", RAISING)
def test_a_failed_message_leaves_the_state_as_it_was_before_it(do: str) -> None:
    outcome = run([LOG], [log(0), log(1, do), log(2)], by=NO_RETRY)
    assert state_after(outcome, LOG, "k").entries == [0, 2]
    assert [(b.reason, b.message_id, b.key, tries) for b, tries in outcome.dead] == [
        ("computation-failed", "id-1", "k", 1)
    ]
    assert outcome.taken == 3 and [work.message["n"] for work in outcome.done] == [0, 2]


@pytest.mark.parametrize("do", RAISING)
def test_a_dead_letter_has_error_and_traceback_that_can_be_written(do: str) -> None:
    ((broken, _),) = run([LOG], [log(1, do)], by=NO_RETRY).dead
    assert "in apply" in broken.trace
    assert broken.error.encode() and broken.trace.encode()
    assert broken.raw == log(1, do)


@pytest.mark.parametrize("do", [*RAISING, "unpicklable"])
def test_a_new_key_whose_first_message_fails_gets_no_state(do: str) -> None:
    outcome = run([LOG], [log(0, do), log(1, key="other")])
    assert list(outcome.states["log"]) == ["other"]
    assert list(outcome.parked) == ["k"]


@pytest.mark.parametrize("do", RAISING)
def test_a_failed_message_waits_in_its_keys_mailbox_before_later_ones(do: str) -> None:
    outcome = run([LOG], [log(0), log(1, do), log(2), log(3, key="other"), log(4)])
    assert outcome.mailed == {"k": [log(1, do), log(2), log(4)]}
    failure, delay, _ = outcome.parked["k"]
    assert (failure.item.raw, failure.attempt, delay) == (log(1, do), 1, 2.0)
    assert state_after(outcome, LOG, "k").entries == [0]
    assert state_after(outcome, LOG, "other").entries == [3]
    assert outcome.taken == 5 and not outcome.dead


def test_messages_of_a_parked_key_wait_whatever_their_computation() -> None:
    raws = [log(0), message_to("second", 1), log(2, key="other"), message_to("stateless", 3)]
    outcome = run([LOG, SECOND, STATELESS], raws, parked={"k"})
    assert outcome.mailed == {"k": [raws[0], raws[1], raws[3]]}
    assert [work.raw for work in outcome.done] == [raws[2]] and not counting.seen


def test_a_failure_of_one_computation_keeps_the_work_of_another_for_the_key() -> None:
    outcome = run([LOG, SECOND], [message_to("second", 0), log(1, "raise"), message_to("second", 2)])
    assert state_after(outcome, SECOND, "k").entries == [0]
    assert outcome.mailed == {"k": [log(1, "raise"), message_to("second", 2)]}


def test_a_stateless_computation_that_raises_is_parked_too() -> None:
    raws = [message_to("stateless", 0), message_to("stateless", 1, "raise"), message_to("stateless", 2)]
    outcome = run([STATELESS], raws)
    assert counting.seen == [(0, 1), (1, 1)]
    assert outcome.mailed == {"k": raws[1:]} and list(outcome.parked) == ["k"]


def test_a_computations_own_retry_policy_overrides_the_settings() -> None:
    own = declare(counting.apply, name="log", state=Log, key=lambda m: m["key"], on_error=RetryPolicy(1, 30.0, jitter=0))
    assert run([own], [log(0, "raise")], by=NO_RETRY).parked["k"][1] == 30.0


def test_a_retry_that_succeeds_empties_the_mailbox() -> None:
    raws = [message_to("with context", n, "flaky" if n == 0 else "") for n in range(3)]
    outcome = run([WITH_CONTEXT], raws, mailbox_of="k", attempt=2, parked={"k"})
    assert state_after(outcome, WITH_CONTEXT, "k").entries == [0, 1, 2]
    assert (outcome.taken, outcome.parked, outcome.mailed) == (3, {}, {})
    assert [context.attempt for context in counting.seen] == [2, 1, 1]


def test_a_retry_that_fails_again_stays_at_the_head_of_its_mailbox() -> None:
    outcome = run([LOG], [log(0, "raise"), log(1)], mailbox_of="k", attempt=3, parked={"k"})
    assert (outcome.taken, outcome.mailed, outcome.states["log"]) == (0, {}, {})
    failure, delay, _ = outcome.parked["k"]
    assert (failure.attempt, delay) == (3, 8.0)


def test_after_the_last_retry_the_message_is_a_dead_letter_and_the_mailbox_continues() -> None:
    outcome = run([LOG], [log(0, "raise"), log(1), log(2)], mailbox_of="k", attempt=4, parked={"k"})
    assert [(broken.message_id, tries) for broken, tries in outcome.dead] == [("id-0", 4)]
    assert state_after(outcome, LOG, "k").entries == [1, 2]
    assert outcome.taken == 3 and not outcome.parked


@pytest.mark.parametrize("do", EVERY_FAILURE)
def test_a_later_message_of_a_mailbox_that_fails_ends_the_step_before_it(do: str) -> None:
    outcome = run([LOG], [log(0), log(1, do), log(2)], mailbox_of="k", attempt=2, parked={"k"})
    assert (outcome.taken, outcome.mailed) == (1, {})
    assert outcome.parked["k"][0].attempt == 1
    assert state_after(outcome, LOG, "k").entries == [0]


def test_a_key_stays_parked_by_its_name_after_the_extractor_has_changed() -> None:
    outcome = run([LOG], [log(0, "raise", key="new")], mailbox_of="old", attempt=2, parked={"old"})
    assert list(outcome.parked) == ["old"] and outcome.parked["old"][0].attempt == 2
