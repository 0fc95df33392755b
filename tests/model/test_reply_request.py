"""Messages that request their return value or have follow-ups: which ones do, which value they get, and when."""

from __future__ import annotations

import dataclasses
import json
from typing import Any

import pytest

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError, ReplyError
from celery_partitions.model.items import ReplyRequest
from tests.model.build import raw_envelope, raw_message, read, rules, run, state_after


class Numbers:
    numbers: list[int] = []  # noqa: RUF012 - each key has its own


def append(message: dict[str, Any], state: Numbers) -> Any:
    state.numbers.append(message["n"])
    if message.get("fail"):
        raise ValueError("on purpose")
    return object() if message.get("odd") else state.numbers


def made(reply: bool) -> Computation:
    return declare(append, name="append", state=Numbers, key=lambda message: message["key"], reply=reply)


SILENT, ANSWERS = made(False), made(True)


def message(n: int, **more: Any) -> bytes:
    return raw_message("append", {"key": "k", "n": n, **more}, f"id-{n}")


def requests_reply(computation: Computation, embed: str, **headers: Any) -> bool:
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
def test_which_messages_request_the_value(embed: str) -> None:
    assert not requests_reply(SILENT, embed)
    assert not requests_reply(SILENT, embed, ignore_result=True)
    assert requests_reply(SILENT, embed, ignore_result=False)
    assert requests_reply(ANSWERS, embed)
    assert requests_reply(ANSWERS, embed, ignore_result=False)
    assert not requests_reply(ANSWERS, embed, ignore_result=True)


@pytest.mark.parametrize("name", ["callbacks", "errbacks", "chain", "chord"])
@pytest.mark.parametrize("separators", [(", ", ": "), (",", ":")])
def test_which_messages_have_follow_ups(name: str, separators: tuple[str, str]) -> None:
    embed = {"callbacks": None, "errbacks": None, "chain": None, "chord": None, name: [{"task": "x"}]}
    assert requests_reply(SILENT, json.dumps(embed, separators=separators), ignore_result=True)


def answers(outcome: Any) -> list[tuple[str, str]]:
    """(id, value) of each processed message."""
    return [(item.envelope.headers.id, item.value) for item in outcome.done]


def test_the_value_is_encoded_when_it_is_returned() -> None:
    outcome = run([ANSWERS], [message(1), message(2)])
    assert outcome.answered
    assert answers(outcome) == [("id-1", "[1]"), ("id-2", "[1, 2]")]


def test_after_a_replay_each_value_is_that_of_its_own_state() -> None:
    outcome = run([ANSWERS], [message(1), message(2, fail=True), message(3)], by=rules(retries=0))
    assert answers(outcome) == [("id-1", "[1]"), ("id-3", "[1, 3]")]
    error = outcome.failures[0].exception
    assert error is not None and (error.args, error.__traceback__) == (("on purpose",), None)


@pytest.mark.parametrize("mailbox_of", [None, "k"])
def test_a_value_that_is_not_json_fails_its_message_and_rolls_back_its_state(mailbox_of: str | None) -> None:
    outcome = run([ANSWERS], [message(1), message(2, odd=True), message(3)], by=rules(retries=0), mailbox_of=mailbox_of)
    assert state_after(outcome, ANSWERS, "k").numbers == [1, 3]
    assert isinstance(outcome.failures[0].exception, ReplyError)
    assert [broken.message_id for broken, _ in outcome.dead] == ["id-2"]


@pytest.mark.parametrize("has_follow_up", [False, True])
def test_a_value_that_is_too_long_to_send_fails_its_message(has_follow_up: bool) -> None:
    embed = '{"chain": [{"task": "next"}]}' if has_follow_up else "{}"
    bodies = [f'[[{{"key": "k", "n": "{"x" * length}"}}], {{}}, {embed}]' for length in (1, 600)]
    raws = [raw_envelope(body.encode(), headers={"task": "append", "id": f"id-{len(body)}"}) for body in bodies]
    outcome = run([ANSWERS], raws, by=dataclasses.replace(rules(retries=0), message_bytes=6_300 if has_follow_up else 500))
    assert [broken.message_id for broken, _ in outcome.dead] == [f"id-{len(bodies[1])}"]
    assert "Store large data elsewhere" in outcome.dead[0][0].error
    assert state_after(outcome, ANSWERS, "k").numbers == ["x"]


def test_a_message_without_a_request_is_not_answered() -> None:
    outcome = run([SILENT], [message(1, odd=True)])
    assert outcome.taken == len(outcome.done) == 1
    assert not outcome.answered


def test_a_stage_cannot_reply() -> None:
    with pytest.raises(DeclarationError, match="reply=True needs a key="):
        declare(append, name="append", state=Numbers, key=None, reply=True)
