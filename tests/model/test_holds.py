"""The pure step with `holds="computation"`: only the failing computation's messages of the key wait."""

from __future__ import annotations

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.own_lines import is_own_line, key_and_computation, own_line
from tests.model.build import rules, run, state_after
from tests.model.counting import LOG, Log, apply, log, message_to

OWN = declare(apply, name="own", state=Log, key=LOG.extract, holds="computation")
LINE = own_line("k", "own")
BOTH = [OWN, LOG]


def own(number: int, what: str = "", key: str = "k") -> bytes:
    return message_to("own", number, what, key)


def test_the_other_computations_of_the_key_go_on() -> None:
    sent = [own(0), own(1, "raise"), log(2), own(3), log(4), own(5, key="other")]
    outcome = run(BOTH, sent, by=rules(exhausted="park"))
    assert list(outcome.parked) == [LINE] and outcome.mailed == {LINE: [sent[1], sent[3]]}
    assert state_after(outcome, OWN, "k").entries == [0] and state_after(outcome, LOG, "k").entries == [2, 4]
    assert state_after(outcome, OWN, "other").entries == [5] and outcome.taken == 6


def test_later_batches_keep_the_order_of_the_computation() -> None:
    sent = [own(3), log(4), own(5)]
    outcome = run(BOTH, sent, parked={LINE}, own_lines={LINE})
    assert outcome.mailed == {LINE: [sent[0], sent[2]]} and not outcome.parked
    assert state_after(outcome, LOG, "k").entries == [4]


def test_a_key_that_waits_as_a_whole_holds_the_computation_too() -> None:
    sent = [log(1, "raise"), own(2), log(3)]
    outcome = run(BOTH, sent, by=rules(exhausted="park"))
    assert list(outcome.parked) == ["k"] and outcome.mailed == {"k": sent}
    later = run(BOTH, [own(4)], parked={"k", LINE}, own_lines={LINE})
    assert later.mailed == {"k": [own(4)]}, "all of an own line is older than what waits for the key"


def test_a_message_of_the_keys_mailbox_goes_behind_those_of_its_line() -> None:
    sent = [log(1), own(2), log(3)]
    outcome = run(BOTH, sent, parked={"k", LINE}, own_lines={LINE}, mailbox_of="k")
    assert outcome.mailed == {LINE: [own(2)]} and outcome.taken == 3 and not outcome.parked
    assert state_after(outcome, LOG, "k").entries == [1, 3]


def test_a_failure_in_the_keys_mailbox_moves_to_the_line() -> None:
    sent = [own(1, "raise"), log(2), own(3)]
    outcome = run(BOTH, sent, by=rules(exhausted="park"), parked={"k"}, mailbox_of="k", attempt=2)
    assert list(outcome.parked) == [LINE] and outcome.mailed == {LINE: [sent[0], sent[2]]} and outcome.taken == 3


def test_a_line_is_retried_in_place() -> None:
    sent = [own(1), own(2, "raise"), own(3)]
    outcome = run(BOTH, sent, by=rules(exhausted="park"), parked={LINE}, own_lines={LINE}, mailbox_of=LINE, attempt=2)
    assert list(outcome.parked) == [LINE] and not outcome.mailed and outcome.taken == 1
    assert state_after(outcome, OWN, "k").entries == [1]


def test_messages_wait_behind_a_line_of_code_that_held_only_itself_before() -> None:
    line = own_line("k", "log")
    sent = [log(1), log(2, key="other")]
    outcome = run([LOG], sent, parked={line}, own_lines={line})
    assert outcome.mailed == {line: [sent[0]]} and state_after(outcome, LOG, "other").entries == [2]


def test_a_line_has_room_for_as_many_messages_as_a_key() -> None:
    outcome = run(BOTH, [own(1), own(2)], by=rules(mailbox_messages=3), parked={LINE}, own_lines={LINE}, mailbox_lengths={LINE: 2})
    assert outcome.mailed == {LINE: [own(1)]}
    assert [(item.raw, item.reason) for item, _ in outcome.dead] == [(own(2), "mailbox-full")]


def test_names_of_lines() -> None:
    assert key_and_computation(own_line("a\x1fb", "c")) == ("a\x1fb", "c")
    assert key_and_computation("plain") == ("plain", None)
    assert is_own_line(LINE) and not is_own_line("k")


@pytest.mark.parametrize(
    ("how", "says"),
    [
        ({"key": LOG.extract, "holds": "message"}, "must be one of key, computation"),
        ({"key": None, "holds": "computation"}, "needs a key="),
    ],
)
def test_what_is_refused(how: dict[str, object], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declare(apply, name="own", state=Log, **how)  # type: ignore[arg-type]
