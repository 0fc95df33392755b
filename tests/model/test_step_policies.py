"""The pure step when retries are used up: which messages wait, for how long, and what the partition does."""

from __future__ import annotations

import pytest

from tests.model import counting
from tests.model.build import rules, run, state_after
from tests.model.counting import LOG, log

SENT = [log(0), log(1, "raise"), log(2), log(3, key="other")]


@pytest.mark.parametrize(("exhausted", "seconds"), [("park", 2.0), ("hold", None)])
def test_the_message_keeps_its_place_and_its_key_is_parked(exhausted: str, seconds: float | None) -> None:
    outcome = run([LOG], SENT, by=rules(retries=0, exhausted=exhausted))  # type: ignore[arg-type]
    failure, waits, used_up = outcome.parked["k"]
    assert (failure.item.raw, waits, used_up) == (SENT[1], seconds, True)
    assert outcome.mailed == {"k": SENT[1:3]} and not outcome.dead and not outcome.pause
    assert state_after(outcome, LOG, "other").entries == [3] and outcome.taken == 4


def test_stop_ends_the_step_after_the_message_and_pauses() -> None:
    outcome = run([LOG], SENT, by=rules(retries=0, exhausted="stop"))
    assert outcome.pause and outcome.taken == 2
    assert outcome.mailed == {"k": SENT[1:2]} and outcome.parked["k"].seconds == 0.0
    assert list(outcome.states["log"]) == ["k"]


def test_stop_in_a_mailbox_leaves_the_message_at_its_head() -> None:
    outcome = run([LOG], SENT[1:3], by=rules(retries=1, exhausted="stop"), mailbox_of="k", attempt=2, parked={"k"})
    assert outcome.pause and outcome.taken == 0 and not outcome.mailed


def test_before_the_retries_are_used_up_no_policy_pauses() -> None:
    outcome = run([LOG], SENT, by=rules(retries=1, exhausted="stop"))
    assert not outcome.pause and not outcome.parked["k"].used_up and outcome.taken == 4


def test_with_a_full_mailbox_later_messages_become_dead_letters() -> None:
    raws = [log(number) for number in range(5)]
    outcome = run([LOG], raws, by=rules(mailbox_messages=4), parked={"k"}, mailbox_lengths={"k": 2})
    assert outcome.mailed == {"k": raws[:2]}
    assert [(broken.raw, broken.reason, tries) for broken, tries in outcome.dead] == [
        (raw, "mailbox-full", 0) for raw in raws[2:]
    ]
    assert outcome.taken == 5 and not outcome.pause


def test_messages_of_this_step_count_for_a_full_mailbox() -> None:
    raws = [log(0, "raise"), log(1), log(2), log(3)]
    outcome = run([LOG], raws, by=rules(mailbox_messages=2))
    assert outcome.mailed == {"k": raws[:2]} and [broken.raw for broken, _ in outcome.dead] == raws[2:]


def test_a_full_mailbox_pauses_the_partition_before_the_message_if_the_policy_is_stop() -> None:
    raws = [log(0, key="other"), log(1), log(2, key="other")]
    by = rules(mailbox_messages=3, exhausted="stop")
    outcome = run([LOG], raws, by=by, parked={"k"}, mailbox_lengths={"k": 3})
    assert outcome.pause and outcome.taken == 1 and not outcome.dead
    assert not any(outcome.mailed.values())


@pytest.mark.parametrize(("retries", "parked"), [(1, True), (0, False)])
def test_a_message_that_exceeded_its_time_limit_before_counts_as_failed_and_is_not_called(
    retries: int, parked: bool
) -> None:
    outcome = run([LOG], [log(0)], by=rules(retries=retries), failed="took too long")
    assert not counting.seen and state_after(outcome, LOG, "k") is None and outcome.taken == 1
    assert ("k" in outcome.parked) is parked and bool(outcome.dead) is not parked
    (failure,) = outcome.failures
    assert failure.error == "TimeLimitExceeded: took too long"


def test_in_a_mailbox_it_stays_at_its_head_until_its_retries_are_used_up() -> None:
    again = run([LOG], [log(0)], mailbox_of="k", attempt=2, parked={"k"}, failed="took too long")
    assert again.taken == 0 and again.parked["k"].failure.attempt == 2
    last = run([LOG], [log(0)], mailbox_of="k", attempt=4, parked={"k"}, failed="took too long")
    assert last.taken == 1 and len(last.dead) == 1
