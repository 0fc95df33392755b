"""Values between stages are JSON if that is exact, else signed pickles. A forged or moved value is never unpickled."""

from __future__ import annotations

import copy
import json
import os
from base64 import b64decode, b64encode
from collections import OrderedDict
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from enum import Enum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.model.values import ANY_VALUE, dump_value, is_exact, load_value
from celery_partitions.pipeline.sinks import RedisList
from celery_partitions.store.codec import StateCodec
from tests.model.build import raw_envelope
from tests.model.piped import (
    SIGNING,
    Log,
    begin,
    body_of,
    built,
    headers_of,
    logging,
    raws_of,
    read,
    run,
    send,
    stage,
    states,
)

UNSIGNED = StateCodec()

scalars = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()) | st.binary() | st.complex_numbers()
)
names = st.text(max_size=3) | st.sampled_from(["__pickle__", "__type__", "__value__", "__timer__"]) | st.integers() | st.booleans()
values = st.recursive(
    scalars,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(names, inner, max_size=3)
        | st.tuples(inner, inner)
        | st.sets(st.integers(), max_size=2)
    ),
    max_leaves=8,
)


def is_same(one: Any, other: Any) -> bool:
    """Equal, with the same types at every level; NaN equals NaN."""
    if type(one) is not type(other):
        return False
    if isinstance(one, dict):
        return list(map(type, one)) == list(map(type, other)) and list(one) == list(other) and all(is_same(one[n], other[n]) for n in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(is_same, one, other))
    return sorted(map(repr, one)) == sorted(map(repr, other)) if isinstance(one, set) else repr(one) == repr(other)


@given(values)
def test_every_value_is_restored(value: Any) -> None:
    def unpickled(signed: bytes) -> Any:
        assert not is_exact(value) or "\\ud" in ascii(value)
        return SIGNING.load_value(LOG, "m", signed)

    body = dump_value(ANY_VALUE, value, lambda: SIGNING.dump_value("log", "m", value))
    json.loads(body)
    assert is_same(load_value(ANY_VALUE, body, unpickled), value)


@given(values)
def test_without_a_key_a_value_is_sent_exactly_as_json_or_is_refused(value: Any) -> None:
    try:
        body = dump_value(ANY_VALUE, value, lambda: UNSIGNED.dump_value("log", "m", value))
    except Exception as error:
        assert "PARTITIONS_STATE_SIGNING_KEY" in str(error)
        return
    assert is_same(load_value(ANY_VALUE, body, lambda signed: pytest.fail("unpickled")), value)


class Colour(Enum):
    RED = 1


@dataclass
class Point:
    x: int
    y: tuple[int, ...] = ()


class Plain:
    """Objects with equal contents are equal."""

    def __init__(self, held: Any) -> None:
        self.held = held

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Plain) and self.held == other.held

    __hash__ = None  # type: ignore[assignment]


LOG = logging("log")
KINDS = [
    (1, 2),
    {1: "a"},
    b"\xff",
    bytearray(b"x"),
    {1, 2},
    frozenset({1}),
    2**70,
    -(2**63) - 1,
    float("inf"),
    "\ud800",
    Point(1, (2, 3)),
    Plain([Point(1)]),
    Colour.RED,
    datetime(2020, 1, 1),
    Decimal("1.10"),
    OrderedDict(a=1),
    {"__pickle__": "AA=="},
    {"__timer__": True},
    {"__type__": "datetime", "__value__": "x"},
    [[(1,)]],
    "__type__",
    "plain",
    {"a": [None, 1.5, True, "é"]},
]


def hopping() -> Any:
    """A pipeline that receives a number and sends that element of `KINDS` to a stage with another key."""
    give = stage(lambda number: copy.deepcopy(KINDS[number]), "give")
    return built(begin().key_by(lambda number: "k").to(give).key_by(lambda value: "there").to(LOG).to_sinks([]))


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_any_kind_passes_a_hop(number: int) -> None:
    app = hopping()
    raws = raws_of(run(app, [send(number)]))
    assert json.loads(raws[0])["content-type"] == "application/json"
    outcome = run(app, raws)
    assert not outcome.dead
    (found,) = states(app, outcome)["log"]["there"]
    assert type(found) is type(KINDS[number]) and found == KINDS[number]


@pytest.mark.parametrize("number", range(len(KINDS)))
def test_without_a_signing_key_a_value_that_is_not_json_fails_its_message(number: int) -> None:
    outcome = run(hopping(), [send(number)], codec=UNSIGNED)
    if is_exact(KINDS[number]) and KINDS[number] != "\ud800":
        assert len(outcome.emitted) == 1
        return
    ((broken, _),) = outcome.dead
    assert "PARTITIONS_STATE_SIGNING_KEY" in broken.error
    assert not outcome.emitted


def test_an_unpicklable_value_fails_the_stage_that_returned_it() -> None:
    give = stage(lambda number: lambda: None, "give")
    app = built(begin().key_by(lambda number: "k").to(give).key_by(lambda value: "there").to(LOG).to_sinks([]))
    ((broken, _),) = run(app, [send(1)]).dead
    assert "can't be pickled" in broken.error


class Touchy:
    """Leaves a trace when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("/nonexistent/was unpickled",)


def hop_with(signed: bytes, **headers: Any) -> bytes:
    body = b'[[{"__pickle__":"' + b64encode(signed) + b'"}],{},{}]'
    all_headers = {"task": "log", "id": "m:0", "partition_key": "there", **headers}
    return raw_envelope(body, headers=all_headers)


def forged() -> dict[str, bytes]:
    """Each would be unpickled if its signature were right."""
    good = SIGNING.dump_value("log", "m:0", (1, 2))
    (hop,) = raws_of(run(hopping(), [send(0)]))
    stolen = b64decode(body_of(hop)[0][0]["__pickle__"])
    return {
        "unsigned": hop_with(UNSIGNED.seal("log", "m:0", b"\x80\x05K\x01.")),
        "no signature at all": hop_with(b""),
        "another secret's": hop_with(StateCodec((b"another",)).dump_value("log", "m:0", Touchy())),
        "one bit is another": hop_with(good[:-1] + bytes([good[-1] ^ 1])),
        "of another message": hop_with(good, id="m:1"),
        "of another stage": hop_with(SIGNING.dump_value("other", "m:0", (1, 2))),
        "of a state": hop_with(SIGNING.dump(LOG, "m:0", LOG.state.new())),  # type: ignore[union-attr]
        "moved to another id": hop_with(stolen, id="x"),
        "not base64": raw_envelope(
            b'[[{"__pickle__":"***"}],{},{}]', headers={"task": "log", "id": "m:0", "partition_key": "there"}
        ),
        "and more": raw_envelope(
            b'[[{"__pickle__":"AA=="}],{"a":1},{}]', headers={"task": "log", "id": "m:0", "partition_key": "there"}
        ),
    }


@pytest.mark.parametrize("how", forged())
def test_a_forged_or_moved_value_is_a_dead_letter_and_never_unpickled(how: str) -> None:
    (item,) = read(hopping(), [forged()[how]])
    assert type(item).__name__ == "DeadLetterItem"
    assert item.reason in ("bad-signature", "wrong-arguments"), item


def test_a_signed_pickle_with_a_name_that_is_not_allowed_is_a_dead_letter() -> None:
    (item,) = read(hopping(), [hop_with(SIGNING.dump_value("log", "m:0", Touchy()))])
    assert type(item).__name__ == "DeadLetterItem" and "mkdir" in item.error


def test_a_pickle_in_a_message_to_a_source_without_a_config_stays_plain_json() -> None:
    raw = raw_envelope(b'[[{"__pickle__":"AA=="}],{},{}]', headers={"task": "in", "id": "m"})
    (item,) = read(hopping(), [raw])
    assert item.message == {"__pickle__": "AA=="}


def typed(value: dict[str, Any], state: Any) -> None:
    state.entries.append(value)


@pytest.mark.parametrize("value", [{"__pickle__": "AA=="}, {"__timer__": True}, {"a": 1}])
def test_a_value_that_looks_like_the_wire_format_reaches_an_annotated_stage_unchanged(value: dict[str, Any]) -> None:
    taking = stage(typed, "typed", state=Log)
    give = stage(lambda number: value, "give")
    app = built(begin().key_by(lambda number: "k").to(give).key_by(lambda value: "there").to(taking).to_sink(RedisList("o")))
    outcome = run(app, raws_of(run(app, [send(1)])))
    assert states(app, outcome)["typed"] == {"there": [value]}


@pytest.mark.parametrize("key", ["é", b"\xff\x00", b"\xc3\xa9", "a" * 5, 7, True, b"", 'quote " and \\', "\x00\n"])
def test_any_key_passes_a_hop(key: Any) -> None:
    app = built(begin().key_by(lambda number: "k").to(stage(lambda n: n, "give")).key_by(lambda value: key).to(LOG).to_sinks([]))
    (raw,) = raws_of(run(app, [send(1)]))
    (item,) = read(app, [raw])
    spelled = {True: "true", 7: "7"}.get(key, key) if not isinstance(key, bytes) else key.decode("utf-8", "surrogateescape")
    assert item.key == spelled
    if key == b"\xff\x00":
        assert headers_of(raw)["partition_key"] == {"base64": "/wA="}
    assert states(app, run(app, [raw])) == {"log": {spelled: [1]}}
