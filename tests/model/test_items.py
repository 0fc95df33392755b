"""Reading a batch gives one item per raw message, in order. Its type says what will happen to the message."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.items import DeadLetterItem, Delayed, Misrouted, PlainTask, Skipped, Work
from celery_partitions.model.keys import partition_of
from tests.model.build import raw_envelope, raw_message, read


def keyed(message: dict[str, Any]) -> Any:
    if message.get("exits"):
        raise SystemExit(3)
    return message["key"]


COUNT = declare(lambda message, state: None, name="count", state=dict, key=keyed)
NOW = 1_000.0


def test_a_message_of_this_partition_is_work_with_its_key_and_message() -> None:
    raw = raw_message("count", {"key": 7}, "id-1")
    (item,) = read([COUNT], [raw])
    assert isinstance(item, Work)
    assert (item.raw, item.computation, item.key, item.message) == (raw, COUNT, "7", {"key": 7})
    assert item.envelope.headers.id == "id-1"


@pytest.mark.parametrize("partition", [0, 1, 2, None])
def test_a_message_of_another_partition_is_forwarded_and_never_applied_here(partition: int | None) -> None:
    keys = [f"k{number}" for number in range(30)]
    items = read([COUNT], [raw_message("count", {"key": key}) for key in keys], partition=partition, partitions=3)
    for key, item in zip(keys, items, strict=True):
        where = partition_of(key, 3)
        if where == partition:
            assert isinstance(item, Work) and item.key == key
        else:
            assert isinstance(item, Misrouted) and item.partition == where


def test_each_raw_message_gives_one_item_in_its_place() -> None:
    raws = [raw_message("count", {"key": "a"}), b"rubbish", raw_message("mail", 1), raw_message("count", {"key": "b"})]
    items = read([COUNT], raws, plain_task={"mail"})
    assert [type(item) for item in items] == [Work, DeadLetterItem, PlainTask, Work]
    assert [item.raw for item in items] == raws


def test_a_task_that_is_not_a_computation_runs_only_if_it_is_registered() -> None:
    raw = raw_message("mail", {"key": "a"}, "id-1")
    (item,) = read([COUNT], [raw])
    assert isinstance(item, DeadLetterItem)
    assert (item.reason, item.task, item.message_id) == ("unknown-task", "mail", "id-1")
    (item,) = read([COUNT], [raw], plain_task={"mail"})
    assert isinstance(item, PlainTask) and item.headers.id == "id-1"


def test_a_revoked_message_is_skipped_even_if_it_is_invalid() -> None:
    raws = [raw_message("count", {"no": "key"}, "gone"), raw_message("count", {"key": "a"}, "stays")]
    gone, stays = read([COUNT], raws, revoked={"gone"})
    assert isinstance(gone, Skipped) and gone.why == "revoked"
    assert isinstance(stays, Work)


@pytest.mark.parametrize(("expires", "kind"), [(NOW - 1, Skipped), (NOW, Work), ("1970-01-01T00:16:39", Skipped)])
def test_a_message_past_its_expiry_is_skipped(expires: Any, kind: type) -> None:
    (item,) = read([COUNT], [raw_message("count", {"key": "a"}, expires=expires)], now=NOW)
    assert type(item) is kind


@pytest.mark.parametrize(("eta", "kind"), [(NOW + 1, Delayed), (NOW, Work), ("1970-01-01T00:16:41", Delayed)])
def test_a_message_before_its_eta_is_delayed_until_then(eta: Any, kind: type) -> None:
    (item,) = read([COUNT], [raw_message("count", {"key": "a"}, eta=eta)], now=NOW)
    assert type(item) is kind
    assert not isinstance(item, Delayed) or item.due == NOW + 1


def test_the_ingress_forwards_a_delayed_message_and_leaves_the_delay_to_its_partition() -> None:
    (item,) = read([COUNT], [raw_message("count", {"key": "a"}, eta=NOW + 1)], now=NOW, partition=None)
    assert isinstance(item, Misrouted)


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ({"other": 1}, "bad-key"),
        (5, "bad-key"),
        ({"key": None}, "bad-key"),
        ({"key": 1.5}, "bad-key"),
        ({"key": {"a": 1}}, "bad-key"),
        ({"key": "x" * 5000}, "bad-key"),
        ({"key": "é" * 2049}, "bad-key"),
        ({"exits": True}, "bad-key"),
        ({"__type__": "uuid", "__value__": {"hex": 5}}, "wrong-type"),
    ],
)
def test_an_invalid_message_becomes_a_dead_letter_with_reason_and_identity(
    message: Any, reason: str
) -> None:
    raw = raw_message("count", message, "id-1")
    (item,) = read([COUNT], [raw])
    assert isinstance(item, DeadLetterItem)
    assert (item.raw, item.reason, item.task, item.message_id) == (raw, reason, "count", "id-1")


def test_the_dead_letter_of_an_extractor_that_raised_has_its_traceback() -> None:
    (item,) = read([COUNT], [raw_message("count", {})])
    assert isinstance(item, DeadLetterItem)
    assert "KeyError: 'key'" in item.error and "in keyed" in item.trace


@pytest.mark.parametrize("header", ["eta", "expires"])
@pytest.mark.parametrize("value", ["tomorrow", [], {}, True, 10**400, 1e306, -1e306])
def test_an_invalid_time_is_a_dead_letter(header: str, value: Any) -> None:
    (item,) = read([COUNT], [raw_message("count", {"key": "a"}, **{header: value})])
    assert isinstance(item, DeadLetterItem) and item.reason == "bad-time"


@dataclass
class Exits:
    key: str

    def __post_init__(self) -> None:
        raise SystemExit(1) if self.key == "exit" else ZeroDivisionError(self.key)


def takes_exits(message: Exits) -> None: ...


@pytest.mark.parametrize(
    ("key", "reason", "says"), [("exit", "unforeseen", "SystemExit: 1"), ("x", "wrong-type", "ZeroDiv")]
)
def test_a_message_class_that_raises_or_exits_makes_a_dead_letter(key: str, reason: str, says: str) -> None:
    computation = declare(takes_exits, name="count", state=None, key=lambda message: message.key)
    (item,) = read([computation], [raw_message("count", {"key": key})])
    assert isinstance(item, DeadLetterItem) and item.reason == reason
    assert says in item.error and "__post_init__" in item.trace


@pytest.mark.parametrize("depth", [*range(900, 1010, 7), 5_000, 100_000])
@pytest.mark.parametrize("place", ["eta", "content-type", "compression", "body", "protocol 1"])
def test_json_nested_to_any_depth_gives_an_item(depth: int, place: str) -> None:
    deep = b"[" * depth + b"]" * depth
    match place:
        case "eta":
            raw = raw_message("count", {"key": "a"}, eta="DEEP").replace(b'"DEEP"', deep)
        case "content-type":
            raw = raw_envelope(b"[]", **{"content-type": "DEEP"}).replace(b'"DEEP"', deep)
        case "compression":
            raw = raw_envelope(b"[]", headers={"compression": "DEEP"}).replace(b'"DEEP"', deep)
        case "body":
            raw = raw_envelope(b"[[" + deep + b"],{},{}]")
        case _:
            raw = raw_envelope(b'{"task":"count","id":"i","args":' + deep + b"}", headers={"task": None})
    (item,) = read([COUNT], [raw])
    assert isinstance(item, DeadLetterItem) and item.raw == raw and item.reason != "unforeseen"
