"""Messages that ask for their value, or name what follows: which do, what they are told, and when."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from celery_partitions.model.computation import Computation, declare
from celery_partitions.model.errors import DeclarationError, ReplyError
from celery_partitions.model.items import ReplyRequest
from tests.model.build import raw_envelope, raw_message, read, rules, run, state_after


class Numbers:
    numbers: list[int] = []  # noqa: RUF012 - each key has its own


def append(message: dict[str, Any], state: Numbers) -> Any:
    state.numbers.append(message["n"])
    if message.get("fail"):
        raise ValueError("told to")
    return object() if message.get("odd") else state.numbers


def made(reply: bool) -> Computation:
    return declare(append, name="append", state=Numbers, key=lambda message: message["key"], reply=reply)


SILENT, ANSWERS = made(False), made(True)


def message(n: int, **more: Any) -> bytes:
    return raw_message("append", {"key": "k", "n": n, **more}, f"id-{n}")


def is_asked(computation: Computation, embed: str, **headers: Any) -> bool:
    body = f'[[{{"key": "k", "n": 1}}], {{}}, {embed}]'.encode()
    (item,) = read([computation], [raw_envelope(body, headers={"task": "append", **headers})])
    return type(item) is ReplyRequest


@pytest.mark.parametrize(
    "embed",
    [
        "{}",
        '{"callbacks": null, "errbacks": null, "chain": null, "chord": null}',
        '{"callbacks":null,"errbacks":null,"chain":null,"chord":null}',
    ],
)
def test_who_asks_for_the_value(embed: str) -> None:
    assert not is_asked(SILENT, embed)
    assert not is_asked(SILENT, embed, ignore_result=True)
    assert is_asked(SILENT, embed, ignore_result=False)
    assert is_asked(ANSWERS, embed)
    assert is_asked(ANSWERS, embed, ignore_result=False)
    assert not is_asked(ANSWERS, embed, ignore_result=True)


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_who_names_what_follows(name: str, separators: tuple[str, str]) -> None:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None, name: [{"task": "x"}]}
    assert is_asked(SILENT, json.dumps(embed, separators=separators), ignore_result=True)


def answered(raws: list[bytes], **how: Any) -> tuple[Any, list[tuple[str, str]]]:
    """The outcome, and (id, value) of each answer in the order they were made."""
    told: list[tuple[str, str]] = []

    def answer(item: ReplyRequest) -> None:
        told.append((item.envelope.headers.id, item.value))
        item.commands = [["TOLD", item.value]]

    by = dataclasses.replace(how.pop("by", rules(retries=0)), answer=answer)
    return run([ANSWERS], raws, by=by, **how), told


def test_the_value_is_written_when_it_is_returned() -> None:
    outcome, told = answered([message(1), message(2)])
    assert told == [("id-1", "[1]"), ("id-2", "[1, 2]")]
    assert outcome.answered
    assert [item.commands for item in outcome.done] == [[["TOLD", "[1]"]], [["TOLD", "[1, 2]"]]]


def test_after_a_replay_each_tells_once_what_its_state_is() -> None:
    outcome, told = answered([message(1), message(2, fail=True), message(3)])
    assert [item.commands for item in outcome.done] == [[["TOLD", "[1]"]], [["TOLD", "[1, 3]"]]]
    assert [one for one, _ in told] == ["id-1", "id-1", "id-3"]
    error = outcome.failures[0].exception
    assert error is not None and (error.args, error.__traceback__) == (("told to",), None)


def test_a_value_that_is_no_json_fails_its_message_and_undoes_its_state() -> None:
    outcome, _ = answered([message(1), message(2, odd=True), message(3)])
    assert state_after(outcome, ANSWERS, "k").numbers == [1, 3]
    assert isinstance(outcome.failures[0].exception, ReplyError)
    assert [broken.message_id for broken, _ in outcome.dead] == ["id-2"]


@pytest.mark.parametrize("mailbox_of", [None, "k"])
def test_what_can_not_be_told_fails_its_message_and_undoes_its_state(mailbox_of: str | None) -> None:
    def refuse(item: ReplyRequest) -> None:
        if item.message["n"] == 2:
            raise LookupError("no such queue")

    by = dataclasses.replace(rules(retries=0), answer=refuse)
    outcome = run([ANSWERS], [message(1), message(2), message(3)], by=by, mailbox_of=mailbox_of)
    assert state_after(outcome, ANSWERS, "k").numbers == [1, 3]
    assert [(broken.message_id, broken.error) for broken, _ in outcome.dead] == [("id-2", "LookupError: no such queue")]


def test_who_does_not_ask_is_not_answered() -> None:
    outcome = run([SILENT], [message(1, odd=True)])
    assert outcome.taken == len(outcome.done) == 1
    assert not outcome.answered


def test_a_stage_has_nobody_to_reply_to() -> None:
    with pytest.raises(DeclarationError, match="reply=True wants a key="):
        declare(append, name="append", state=Numbers, key=None, reply=True)
