"""Messages that are too large, too deeply nested or unusual: each has one defined result, and costs no more than its bytes."""

from __future__ import annotations

import gzip
import sys
import tracemalloc
from dataclasses import dataclass
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import MAX_ERROR_CHARACTERS, describe
from celery_partitions.model.items import DeadLetterItem, Reading, Work, condemned, read_batch
from celery_partitions.model.messages import MAX_BYTES, name_of
from celery_partitions.model.topology import Topology
from tests.model.build import raw_envelope, raw_message, read


@dataclass
class Trade:
    symbol: str
    price: float = 0.0
    volume: int = 0


def record_trade(trade: Trade, state: dict[str, Any]) -> None:
    """Never called in these tests."""


ANY = declare(lambda message, state: None, name="any", state=dict, key=lambda message: "k")
TYPED = declare(record_trade, name="typed", state=dict, key=lambda trade: trade.symbol)
MAX = 10_000


def read_one(raw: bytes, max_bytes: int = MAX) -> Any:
    reading = Reading({"any": ANY, "typed": TYPED}, (), 0, Topology(0, 1), max_bytes)
    (item,) = read_batch([raw], reading, now=0.0, revoked=())
    return item


def in_body(value: bytes, task: str = "any") -> bytes:
    """A message whose argument is this JSON text."""
    return raw_envelope(b"[[" + value + b"],{},{}]", headers={"task": task})


def test_a_message_of_more_bytes_than_allowed_is_not_decoded() -> None:
    raw = raw_message("any", "x" * 6_000)
    assert isinstance(read_one(raw, len(raw)), Work)
    item = read_one(raw, len(raw) - 1)
    assert isinstance(item, DeadLetterItem)
    assert (item.reason, item.raw) == ("too-large", raw)
    assert item.error == f"the message has {len(raw)} bytes; workers decode at most {len(raw) - 1} bytes (PARTITIONS_MESSAGE_BYTES)"


def test_refusing_a_huge_message_costs_nothing_even_if_it_killed_its_worker() -> None:
    raw = b"[" + b"[]," * (MAX_BYTES // 3) + b"[]]"
    tracemalloc.start()
    try:
        item = read_one(raw, MAX_BYTES)
        dead_letter = condemned(item, "killed three workers")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
    assert item.reason == "too-large" and dead_letter.raw is raw


@pytest.mark.parametrize("pressed", [gzip.compress(b"[[" + b" " * 1_000_000), gzip.compress(bytes(50_000_000))])
def test_a_compressed_body_may_not_grow_beyond_the_limit(pressed: bytes) -> None:
    item = read_one(raw_envelope(pressed, headers={"task": "any", "compression": "gzip"}), 500_000)
    assert (type(item), item.reason) == (DeadLetterItem, "too-large")


#: Since Python 3.12, C code (the decoder) has its own limit of several thousand.
DEPTHS = [sys.getrecursionlimit() + 10, 100_000] if sys.version_info < (3, 12) else [100_000]


@pytest.mark.parametrize("opening", [b"[", b'{"a":'])
@pytest.mark.parametrize("depth", DEPTHS)
@pytest.mark.parametrize("where", ["message", "body", "body with __type__", "envelope", "header", "protocol 1"])
def test_a_message_may_not_be_nested_beyond_the_interpreters_limit(opening: bytes, depth: int, where: str) -> None:
    close = b"]" if opening == b"[" else b"}"
    deep = opening * depth + (b"" if opening == b"[" else b"1") + close * depth
    raw = {
        "message": in_body(deep),
        "body": raw_envelope(deep, headers={"task": "any"}),
        "body with __type__": in_body(b'{"__type__":"x","__value__":' + deep + b"}"),
        "envelope": deep,
        "header": in_body(b"1").replace(b'"m0"', deep),
        "protocol 1": raw_envelope(b'{"task":"any","args":' + deep + b"}", headers={"task": None}),
    }[where]
    item = read_one(raw, MAX_BYTES)
    assert (type(item), item.reason) == (DeadLetterItem, "not-json")
    assert item.error.endswith("is nested too deeply")


def test_a_message_may_be_nested_up_to_the_limit() -> None:
    item = read_one(in_body(b"[" * 500 + b"]" * 500))
    assert isinstance(item, Work)


def test_long_values_of_a_refused_message_are_shortened() -> None:
    item = read_one(raw_message("x" * 5_000, 1, "i" * 5_000), MAX_BYTES)
    assert item.reason == "unknown-task"
    assert len(item.task) == len(item.message_id) == 1_000
    assert len(item.error) < MAX_ERROR_CHARACTERS + 100 and "characters left out" in item.error
    assert name_of(b'"' + b" " * MAX_BYTES + b'"') == (None, None)
    assert len(describe(ValueError("x" * 1_000_000))) < MAX_ERROR_CHARACTERS + 100


#: JSON text of a message → the value that an untyped computation gets.
TAKEN: dict[bytes, Any] = {
    b"123456789012345678901234567890": 123456789012345678901234567890,
    b"9" * 4300: int("9" * 4300),
    b"-0": 0,
    b"1e5": 100_000.0,
    b"1e-999": 0.0,
    b'{"a":1,"a":2}': {"a": 2},
    b'"\\ud83d\\ude00"': "\U0001f600",
    b'"\\u0000"': "\x00",
}
#: JSON text of a refused message, and the reason.
REFUSED = {
    b"9" * 4301: "not-json",
    b"1e999": "not-json",
    b"-1e999": "not-json",
    b"NaN": "not-json",
    b"Infinity": "not-json",
    b"-Infinity": "not-json",
    b"nan": "not-json",
    b"01": "not-json",
    b"1.": "not-json",
    b"0x10": "not-json",
    b'"\\ud800"': "not-json",
    b'"\\ude00\\ud83d"': "not-json",
    b'"\xed\xa0\x80"': "not-json",
    b'"\xff"': "not-json",
    b'"\x00"': "not-json",
    b'{"a":1,}': "not-json",
    b"{'a':1}": "not-json",
    b"": "wrong-arguments",
}


@pytest.mark.parametrize(("text", "value"), TAKEN.items(), ids=lambda part: repr(part)[:30])
def test_unusual_values_have_one_meaning(text: bytes, value: Any) -> None:
    item = read_one(in_body(text), MAX_BYTES)
    assert isinstance(item, Work)
    assert item.message == value and type(item.message) is type(value)


@pytest.mark.parametrize(("text", "reason"), REFUSED.items(), ids=lambda part: repr(part)[:30])
def test_invalid_json_and_invalid_values_are_refused(text: bytes, reason: str) -> None:
    item = read_one(in_body(text), MAX_BYTES)
    assert (type(item), item.reason) == (DeadLetterItem, reason)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (b'{"symbol":"A","price":' + b"9" * 400 + b"}", "wrong-type"),
        (b'{"symbol":"A","price":NaN}', "not-json"),
        (b'{"symbol":"A","volume":1.5}', "wrong-type"),
        (b'{"symbol":"A","volume":' + b"9" * 4301 + b"}", "not-json"),
        (b'{"symbol":"\\ud800"}', "not-json"),
    ],
)
def test_they_are_refused_in_a_typed_message_too(text: bytes, reason: str) -> None:
    item = read_one(in_body(text, "typed"), MAX_BYTES)
    assert (type(item), item.reason) == (DeadLetterItem, reason)


def test_the_last_of_two_equal_names_counts_in_envelope_and_message() -> None:
    item = read_one(in_body(b'{"symbol":"A","symbol":"B"}', "typed"))
    assert isinstance(item, Work) and item.key == "B"
    twice = in_body(b'{"symbol":"A"}', "typed").replace(b'"task": "typed"', b'"task": "typed", "task": "none"')
    (item,) = read([TYPED], [twice])
    assert (type(item), item.reason, item.task) == (DeadLetterItem, "unknown-task", "none")
