"""Log lines: one event per line, with fields, optionally as JSON, and never with message contents."""

from __future__ import annotations

import enum
import functools
import io
import json
import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pydantic
import pytest

from celery_partitions.model.errors import MessageError
from celery_partitions.model.keys import key_text
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.worker.logs import EscapingCelerys, JsonFormatter, log_fields
from tests.fundamentals.application import fail, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until

SECRET = "4111-1111-1111-1111"


class Kind(enum.Enum):
    """The kind of a card."""

    DEBIT = "debit"


@dataclass
class Card:
    """A message that msgspec decodes."""

    kind: Kind
    price: float = 0.0


class Model(pydantic.BaseModel):
    """A message that pydantic decodes."""

    price: float
    note: str = ""


def line(
    message: str = "text", *arguments: object, level: int = logging.INFO, extra: dict[str, object] | None = None
) -> Any:
    logger = logging.getLogger("a.logger")
    record = logger.makeRecord("a.logger", level, __file__, 1, message, arguments, None, extra=extra)
    return json.loads(JsonFormatter().format(record))


def test_a_line_has_its_text_and_fields() -> None:
    found = line(
        "%s: %d", "text", 7, level=logging.WARNING, extra=log_fields("2", key="k", message_id="m", task="t", attempt=3)
    )
    assert found.pop("ts").endswith("Z")
    assert found == {
        "level": "WARNING",
        "logger": "a.logger",
        "event": "text: 7",
        "partition": 2,
        "key": "k",
        "message_id": "m",
        "task": "t",
        "attempt": 3,
    }


def test_unknown_fields_are_omitted_and_the_ingress_has_its_name() -> None:
    assert log_fields("ingress", message_id=None) == {"partition": "ingress"}
    assert log_fields(key=key_text(b"\xff")) == {"key": "\\xff"}


class Awkward:
    def __repr__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize("value", ["\ud800", float("nan"), 2**70, Awkward(), {1: Awkward()}, {(1, 2): 3}, b"\xff", object()])
def test_no_value_breaks_a_json_line(value: object) -> None:
    found = line("text", extra={"given": value})
    assert found["event"] == "text"
    assert "given" in found


def test_an_exception_is_in_the_same_line() -> None:
    try:
        raise ValueError("why")
    except ValueError:
        record = logging.getLogger("x").makeRecord("x", 40, __file__, 1, "text", (), sys.exc_info())
    text = JsonFormatter().format(record)
    assert "\n" not in text
    assert json.loads(text)["trace"].endswith("ValueError: why")


def test_celerys_fields_with_a_plain_tasks_arguments_are_not_logged() -> None:
    found = line("text", extra={"data": {"args": [SECRET]}, "task_name": "x", "task_id": "y"})
    assert found.keys() == {"ts", "level", "logger", "event"}


#: Messages that a worker refuses, with the secret somewhere in them: each is a dead letter with another reason or text.
UNFIT = {
    "enum": {"kind": SECRET},
    "pydantic": {"price": SECRET},
    "pydantic's validator": {"price": 1, "note": [SECRET]},
    "date": {"__type__": "datetime", "__value__": SECRET},
    "missing": SECRET,
}


@pytest.mark.parametrize("name", UNFIT)
@pytest.mark.parametrize("annotation", [Card, Model, Any])
def test_a_refused_message_is_not_quoted(name: str, annotation: Any) -> None:
    body = json.dumps([[UNFIT[name]], {}, {}]).encode()
    try:
        MessageCodec(annotation, "card").decode(body)
    except MessageError as error:
        assert SECRET not in str(error)
        assert "\n" not in str(error)


def test_the_fields_path_is_logged() -> None:
    def refusal(annotation: Any, message: object) -> str:
        with pytest.raises(MessageError) as caught:
            MessageCodec(annotation, "card").decode(json.dumps([[message], {}, {}]).encode())
        return str(caught.value)

    assert refusal(Card, {"kind": SECRET}) == "card: Invalid enum value - at `$.kind`"
    assert refusal(Model, {"price": SECRET}).startswith("card: Input should be a valid number")
    assert refusal(Model, {"price": SECRET}).endswith(" - at $.price")


@pytest.mark.parametrize("body", [[SECRET, {}, {}], [[1], SECRET, {}], [[1, SECRET], {}, {}], [[], {SECRET: 1}, {}]])
def test_arguments_that_do_not_fit_are_counted(body: object) -> None:
    with pytest.raises(MessageError, match="takes exactly one message") as caught:
        MessageCodec(int, "number").decode(json.dumps(body).encode())
    assert SECRET not in str(caught.value)


def test_every_line_of_a_worker_is_json_without_message_contents(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS_LOG_FORMAT="json", PARTITIONS_RETRY_ATTEMPTS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.05, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    worker = live.start_worker().wait_ready()
    live.app.send_task(
        record.name, args=[{"key": SECRET.replace("1", "2"), "number": SECRET}], task_id="unfit", queue="partition.0"
    )
    live.app.send_task(fail.name, args=[{"key": "k", "number": 7, "fail": True}], task_id="failing")
    live.dead_letter_of("unfit")
    dead_letter = live.dead_letter_of("failing")
    wait_until(lambda: dead_letter.id in worker.log_path.read_text())  # logged after the commit
    worker.terminate()
    text = worker.log_path.read_text()
    assert SECRET not in text
    # Celery's signal handler writes a line break and this text directly, without a logger.
    lines = [json.loads(one) for one in text.splitlines() if one and not one.startswith("worker: Warm shutdown")]
    assert all({"ts", "level", "logger", "event"} <= one.keys() for one in lines)
    assert {"celery.worker.partitions", "celery.apps.worker"} <= {one["logger"] for one in lines}
    failing = [one for one in lines if one.get("message_id") == "failing"]
    assert [(one["partition"], one["key"], one["task"], one["attempt"]) for one in failing] == [
        (int(dead_letter.partition), "k", fail.name, attempt) for attempt in (1, 2, 2)
    ]
    assert failing[-1]["dead_letter"] == dead_letter.id
    # The retry is a warning. The last failure is one error with its exception, which error trackers collect.
    assert [one["level"] for one in failing] == ["WARNING", "ERROR", "WARNING"]
    assert ["trace" in one for one in failing] == [False, True, False]
    assert "ValueError: 7 fails on purpose" in failing[1]["trace"]
    unfit = next(one for one in lines if one.get("message_id") == "unfit")
    assert (unfit["partition"], unfit["reason"], unfit["level"]) == (0, "wrong-type", "ERROR")
    assert unfit["error"].endswith(" - at `$.number`")


def logged(message: str, *arguments: object, error: BaseException | None = None, name: str = "celery.worker.partitions") -> str:
    """A text log line as a worker writes it."""
    out = io.StringIO()
    handler = logging.StreamHandler(out)
    handler.setFormatter(logging.Formatter("[LINE] %(message)s"))
    handler.addFilter(EscapingCelerys())
    exc_info = None if error is None else (type(error), error, error.__traceback__)
    handler.handle(logging.getLogger(name).makeRecord(name, logging.ERROR, __file__, 1, message, arguments, exc_info))
    return out.getvalue()


FORGED = "x\r\n[LINE] forged\x1b[2J\x9b2J\u2028\ud800"
SHOWN = r"x\r\n[LINE] forged\x1b[2J\x9b2J\u2028\ud800"


class WithForgedText:
    def __str__(self) -> str:
        return FORGED

    __repr__ = __str__


@pytest.mark.parametrize(
    ("message", "arguments"),
    [
        ("%s", (FORGED,)),
        ("%s", (WithForgedText(),)),
        ("%r", (WithForgedText(),)),
        ("%s", (ValueError(FORGED),)),
        ("%(name)s", ({"name": FORGED},)),
        ("%s", (["a", WithForgedText()],)),
    ],
    ids=str,
)
def test_arguments_cannot_start_a_line_or_move_the_cursor(message: str, arguments: tuple[object, ...]) -> None:
    text = logged(message, *arguments)
    assert text.splitlines() == [text.removesuffix("\n")]
    assert SHOWN in text and text[:-1].isprintable()


def test_numbers_and_format_strings_are_unchanged() -> None:
    assert logged("one\n two: %d %5.1f %s\tthree", 7, 1.25, None) == "[LINE] one\n two: 7   1.2 None\tthree\n"
    assert logged("plain \x1b[31m") == "[LINE] plain \\x1b[31m\n"
    assert logged("%s", FORGED.removesuffix("\ud800"), name="shop.orders") == f"[LINE] {FORGED[:-1]}\n"


def test_the_text_of_an_exception_cannot_look_like_a_log_line() -> None:
    try:
        raise ValueError("why\n[LINE] forged\x1b[2J")
    except ValueError as error:
        text = logged("failed", error=error)
    assert [line for line in text.split("\n") if line and not line.startswith("    ")] == ["[LINE] failed"]
    assert "\\x1b[2J" in text and "\x1b" not in text


def test_no_message_can_write_a_line_into_a_workers_log(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    worker = live.start_worker().wait_ready()
    hostile = "\n[2026-01-01 00:00:00,000: INFO/MainProcess] forged\x1b[2J"
    send = functools.partial(live.app.send_task, queue="partition.0")
    send(fail.name, args=[{"key": "k" + hostile, "number": 7, "fail": True}], task_id="failing" + hostile)
    send(record.name, args=[{"key": "k", "number": "no number"}], task_id="unfit" + hostile)
    send("unknown" + hostile, args=[1], task_id="unknown task" + hostile)
    send("plain", args=[5], task_id="plain_task" + hostile)
    send("plain", args=[5, 6, 7], task_id="plain and failing" + hostile)
    send(record.name, args=[{"key": "k", "number": 1}], eta="soon" + hostile)
    live.wait_drained()
    worker.terminate()
    assert worker.wait() == 0
    text = worker.log_path.read_text()
    assert text.count("forged") >= 5
    assert "\x1b" not in text
    assert not [line for line in text.splitlines() if line.startswith("[2026-01-01 00:00:00")]
