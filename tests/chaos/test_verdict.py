"""The verdict accepts a history that keeps the promises, and names each violation."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from celery_partitions.store.dead_letters import DeadLetter
from tests.chaos.acts import ALWAYS, TRIES
from tests.chaos.ledger import Sent, SentAct, SentJunk, SentNote, in_doubt
from tests.chaos.recorder import Call, read_records
from tests.chaos.timers import story_errors
from tests.chaos.verdict import RAISED, Found, judge
from tests.model.build import raw_message


def dead_letter_of(number: int, **other: Any) -> DeadLetter:
    return dead_letter(raw_message("play", {"key": "a", "number": number}), **{"reason": RAISED, "attempts": TRIES, **other})


def dead_letter(raw: bytes, reason: str, attempts: int = 0) -> DeadLetter:
    text = base64.b64encode(raw).decode()
    fields = {"id": "0-1-0", "partition": "0", "error": "…", "trace": "", "task": None, "message_id": None, "key": None}
    return DeadLetter(**fields, reason=reason, attempts=attempts, died_at=0.0, raw=text)


def found(applied: Mapping[str, Sequence[int]], **other: Any) -> Found:
    return Found(**{"notes": [], "dead_letters": [], "processed": sum(map(len, applied.values())), **other}, applied=applied)


def kinds(sent: Sequence[Sent], what: Found) -> list[str]:
    return [violation.kind for violation in judge(sent, what, tries=TRIES)]


ACTS = [SentAct("a", 0), SentAct("b", 1), SentAct("a", 2), SentAct("b", 3), SentAct("a", 4)]


def test_what_was_sent_passes() -> None:
    sent = [*ACTS, SentAct("a", 5, ALWAYS), SentAct("b", 6, 1), SentJunk(b"junk", "not-json"), SentNote(7)]
    dead_letters = [dead_letter_of(5), dead_letter(b"junk", "not-json")]
    assert kinds(sent, found({"a": [0, 2, 4], "b": [1, 3, 6]}, dead_letters=dead_letters, notes=[7, 7])) == []
    assert kinds([], found({})) == []


@pytest.mark.parametrize(
    ("applied", "kind"),
    [
        pytest.param({"a": [0, 4], "b": [1, 3]}, "loss", id="a message is lost"),
        pytest.param({"a": [0, 2, 4], "b": [1, 3, 3]}, "duplicate", id="one is applied twice"),
        pytest.param({"a": [0, 4, 2], "b": [1, 3]}, "reorder", id="two are exchanged"),
        pytest.param({"b": [0, 2, 4], "a": [1, 3]}, "foreign", id="the states of two keys are exchanged"),
        pytest.param({"a": [1, 3], "b": [1, 3]}, "foreign", id="a state is another key's"),
    ],
)
def test_a_history_that_differs_from_what_was_sent(applied: dict[str, list[int]], kind: str) -> None:
    assert kinds(ACTS, found(applied)) == [kind]


def test_the_message_after_a_dead_letter_must_not_be_lost() -> None:
    sent = [SentAct("a", 0), SentAct("a", 1, ALWAYS), SentAct("a", 2)]
    assert kinds(sent, found({"a": [0]}, dead_letters=[dead_letter_of(1)])) == ["loss"]


def test_a_message_that_always_raises_must_not_change_the_state() -> None:
    sent = [SentAct("a", 0), SentAct("a", 1, ALWAYS)]
    assert kinds(sent, found({"a": [0, 1]}, dead_letters=[dead_letter_of(1)])) == ["foreign"]


def test_a_poison_message_has_a_dead_letter_for_that_reason_only() -> None:
    sent = [SentAct("a", 0), SentAct("a", 1, kills=True)]
    assert kinds(sent, found({"a": [0]}, dead_letters=[dead_letter_of(1, reason="kills-the-worker", attempts=0)])) == []
    assert kinds(sent, found({"a": [0]})) == ["dead_letter"]
    assert "dead_letter" in kinds(sent, found({"a": [0]}, dead_letters=[dead_letter_of(1)]))
    blamed = [dead_letter_of(1, reason="kills-the-worker"), dead_letter_of(0, reason="kills-the-worker")]
    assert kinds(sent, found({}, dead_letters=blamed)) == ["loss", "dead_letter"]


FLOWS = [SentAct("a", number, ALWAYS if number == 5 else 0, way="flow") for number in range(7)]
ALL = [0, 1, 2, 3, 4, 5, 6]
PASSED = [number for number in ALL if number != 5]


def flowed(outputs: Sequence[int], ids: Sequence[str] = ()) -> Found:
    applied = {"a": ALL, "turned a": ALL, "back a": PASSED}
    played = [("a", number) for number in outputs]
    return found(applied, dead_letters=[dead_letter_of(5)], outputs={"played": played}, output_ids=ids)


def test_a_pipeline_message_is_in_every_stage_before_its_failure_or_in_the_sinks() -> None:
    assert kinds(FLOWS, flowed(PASSED)) == []
    assert kinds(FLOWS, found({"a": PASSED, "turned a": PASSED, "back a": PASSED}, dead_letters=[dead_letter_of(5)])) == ["loss"]


@pytest.mark.parametrize(
    ("outputs", "kind"),
    [
        pytest.param([0, 1, 3, 4, 6], "output loss", id="a missing output"),
        pytest.param([0, 1, 2, 2, 3, 4, 6], "output duplicate", id="an output twice"),
        pytest.param([0, 2, 1, 3, 4, 6], "output reorder", id="two outputs exchanged"),
        pytest.param(ALL, "output foreign", id="an output of one that died"),
    ],
)
def test_outputs_that_differ_from_what_was_sent(outputs: list[int], kind: str) -> None:
    assert kinds(FLOWS, flowed(outputs)) == [kind]


def test_two_outputs_with_one_id() -> None:
    assert kinds(FLOWS, flowed(PASSED, ["0:0", "0:0"])) == ["output duplicate"]


def test_messages_with_an_eta_are_applied_once_in_any_order() -> None:
    sent = [SentAct("a", 0, ordered=False), SentAct("a", 1, ordered=False)]
    assert kinds(sent, found({"a": [1, 0]})) == []
    assert kinds(sent, found({"a": [1]})) == ["loss"]
    assert kinds(sent, found({"a": [1, 0, 1]})) == ["duplicate"]


def test_a_push_in_doubt_is_in_completely_or_not_at_all() -> None:
    sent: list[Sent] = [in_doubt(act, "push") for act in ACTS]
    assert kinds(sent, found({})) == []
    assert kinds(sent, found({"a": [0, 2, 4], "b": [1, 3]})) == []
    assert kinds(sent, found({"a": [0, 2, 4], "b": [1]})) == ["loss"]


def test_pushes_in_doubt_are_checked_separately() -> None:
    sent: list[Sent] = [in_doubt(SentAct("a", 0), "one"), in_doubt(SentAct("b", 1), "other")]
    assert kinds(sent, found({"b": [1]})) == []


@pytest.mark.parametrize(
    "dead_letters",
    [
        pytest.param([], id="none"),
        pytest.param([dead_letter_of(5), dead_letter_of(5)], id="two"),
        pytest.param([dead_letter_of(5, attempts=1)], id="too early"),
        pytest.param([dead_letter_of(5, reason="unreadable-state")], id="for another reason"),
        pytest.param([dead_letter_of(5), dead_letter_of(0)], id="of one that does not raise"),
    ],
)
def test_dead_letters_of_messages_that_raise(dead_letters: list[DeadLetter]) -> None:
    assert "dead_letter" in kinds([*ACTS, SentAct("a", 5, ALWAYS)], found({"a": [0, 2, 4], "b": [1, 3]}, dead_letters=dead_letters))


@pytest.mark.parametrize(
    "dead_letters",
    [
        pytest.param([], id="none"),
        pytest.param([dead_letter(b"junk", "not-json"), dead_letter(b"junk", "not-json")], id="two"),
        pytest.param([dead_letter(b"junk", "wrong-type")], id="for another reason"),
        pytest.param([dead_letter(b"junk", "not-json"), dead_letter(b"other", "not-json")], id="of a message that was not sent"),
    ],
)
def test_dead_letters_of_malformed_messages(dead_letters: list[DeadLetter]) -> None:
    assert "dead_letter" in kinds([SentJunk(b"junk", "not-json")], found({}, dead_letters=dead_letters))


def test_a_malformed_message_in_doubt_may_have_a_dead_letter() -> None:
    sent = [SentJunk(b"junk", "not-json", pack="push")]
    assert kinds(sent, found({})) == []
    assert kinds(sent, found({}, dead_letters=[dead_letter(b"junk", "not-json")])) == []


def test_plain_tasks_run_at_least_once() -> None:
    assert kinds([SentNote(0)], found({})) == ["note"]
    assert kinds([SentNote(0)], found({}, notes=[0, 1])) == ["note"]
    assert kinds([SentNote(0, pack="push")], found({})) == []


def test_the_count_equals_the_numbers_in_the_states() -> None:
    assert kinds(ACTS, found({"a": [0, 2, 4], "b": [1, 3]}, processed=6)) == ["count"]


def test_what_is_left_and_what_workers_did() -> None:
    assert kinds([], found({}, left=["partition.0: 1 queued"], complaints=["worker 0 ended by itself"])) == [
        "left",
        "worker",
    ]


def test_a_body_is_read_as_producers_write_it() -> None:
    assert json.loads(base64.b64decode(dead_letter_of(3).raw))["headers"]["task"] == "play"


def call(number: int, began: float, ended: float | None = None, **other: Any) -> Call:
    return Call(**{"of": "play async", "key": "a", "attempt": 1, "message_id": f"act-{number}", "process": "p", **other}, number=number, began=began, ended=ended)


CALLED = [SentAct("a", number, way="async") for number in range(3)]


def kinds_of_calls(lines: Sequence[tuple[str, int, str]], path: Path, faults: Sequence[tuple[float, float]] = ()) -> list[str]:
    """What is found in these records: begin or end, number, process; one second apart."""
    rows = [f"{what}\tplay async\ta\t{number}\t1\tact-{number}\t{process}\t{at}.0\n" for at, (what, number, process) in enumerate(lines)]
    path.write_text("".join(rows))
    return kinds(CALLED, found({"a": [0, 1, 2]}, calls=read_records(path), faults=faults))


def test_calls_one_after_another_pass(tmp_path: Path) -> None:
    lines = [(what, number, "p") for number in range(3) for what in ("begin", "end")]
    assert kinds_of_calls(lines, tmp_path / "records") == []


B, E = "begin", "end"


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param([(B, 0, "p"), (B, 1, "p"), (E, 0, "p"), (E, 1, "p"), (B, 2, "p"), (E, 2, "p")], ["overlap"], id="two at once"),
        pytest.param([(B, 0, "p"), (B, 1, "q"), (E, 0, "p"), (E, 1, "q"), (B, 2, "q"), (E, 2, "q")], ["overlap"], id="two at once in two workers"),
        pytest.param([(B, 0, "p"), (B, 0, "q"), (E, 0, "p"), (E, 0, "q"), (B, 1, "q"), (E, 1, "q"), (B, 2, "q"), (E, 2, "q")], [], id="another worker begins again"),
        pytest.param([(B, 0, "p"), (B, 0, "q"), (E, 0, "q"), (B, 1, "q"), (E, 1, "q"), (B, 2, "q"), (E, 2, "q")], [], id="killed"),
        pytest.param([(B, 1, "p"), (E, 1, "p"), (B, 0, "p"), (E, 0, "p"), (B, 2, "p"), (E, 2, "p")], ["start"], id="in another order"),
        pytest.param([(B, 0, "p"), (E, 0, "p"), (B, 1, "p"), (E, 1, "p")], ["start"], id="never called"),
    ],
)
def test_calls_that_differ_from_what_was_sent(tmp_path: Path, lines: list[tuple[str, int, str]], expected: list[str]) -> None:
    assert kinds_of_calls(lines, tmp_path / "records") == expected


def test_a_call_is_repeated_only_after_a_fault(tmp_path: Path) -> None:
    lines = [(what, number, "p") for number in (0, 1, 1, 2) for what in (B, E)]
    assert kinds_of_calls(lines, tmp_path / "records") == ["repeat"]
    assert kinds_of_calls(lines, tmp_path / "records", faults=[(3.0, 3.0)]) == []


def test_more_calls_than_a_limit_allows() -> None:
    acts = [SentAct(f"k{number}", number) for number in range(1500)]

    def at_a_rate(rate: float) -> Found:
        calls = [call(number, number / rate, number / rate, of="play shared", key=f"k{number}") for number in range(1500)]
        return found({act.key: [act.number] for act in acts}, calls=calls)

    assert kinds(acts, at_a_rate(40.0)) == []
    assert kinds(acts, at_a_rate(100.0)) == ["rate"]


@pytest.mark.parametrize(
    ("story", "is_right"),
    [
        ([("set", 1, 100), ("set", 2, 200), ("alarm", 2, 200, 200)], True),
        ([("set", 1, 100), ("cancel", 2), ("every", 50), ("tick", 50, 60), ("tick", 300, 1000), ("stop",)], True),
        ([("set", 1, 100), ("cancel", 2), ("alarm", 1, 100, 100)], False),
        ([("set", 1, 100), ("set", 2, 200), ("alarm", 1, 100, 100), ("alarm", 2, 200, 200)], False),
        ([("set", 1, 100), ("alarm", 1, 100, 99)], False),
        ([("set", 1, 100), ("alarm", 1, 100, 100), ("alarm", 1, 100, 101)], False),
        ([("set", 1, 100)], False),
        ([("every", 50), ("tick", 50, 60), ("tick", 310, 310), ("stop",)], False),
        ([("every", 50), ("tick", 50, 60), ("every", 400), ("tick", 400, 400), ("stop",)], False),
    ],
)
def test_stories_of_timers(story: list[tuple[Any, ...]], is_right: bool) -> None:
    assert (list(story_errors(story)) == []) == is_right
