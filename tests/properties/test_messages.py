"""Any valid message arrives as it was sent: as an object or as its dict, from our producer or from any Celery client."""

from __future__ import annotations

import base64
import gzip
import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, TypedDict

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st
from kombu.utils.json import dumps as kombu_dumps

from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.messages import open_envelope
from tests.model.build import raw_envelope


@dataclass
class Trade:
    symbol: str
    price: float
    size: int
    tags: list[str]
    at: datetime | None


class StructTrade(msgspec.Struct):
    symbol: str
    price: float
    size: int
    tags: list[str]
    at: datetime | None


class DictTrade(TypedDict):
    symbol: str
    price: float
    size: int
    tags: list[str]
    at: datetime | None


@attrs.define
class AttrsTrade:
    symbol: str
    price: float
    size: int
    tags: list[str]
    at: datetime | None


class ModelTrade(pydantic.BaseModel):
    symbol: str
    price: float
    size: int
    tags: list[str]
    at: datetime | None


finite = st.floats(allow_nan=False, allow_infinity=False)
moments = st.datetimes(min_value=datetime(1, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.just(UTC))
fields = st.fixed_dictionaries(
    {
        "symbol": st.text(),
        "price": finite,
        "size": st.integers(-(2**63), 2**63 - 1),
        "tags": st.lists(st.text(), max_size=4),
        "at": st.none() | moments,
    }
)
plain = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**200), 2**200) | finite | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)
kombu_values = st.recursive(
    st.integers()
    | st.text()
    | st.datetimes(timezones=st.just(UTC))
    | st.dates()
    | st.uuids()
    | st.binary()
    | st.decimals(allow_nan=False),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
KINDS: list[Any] = [Trade, StructTrade, DictTrade, AttrsTrade, ModelTrade]


@pytest.mark.parametrize("kind", KINDS)
@given(values=fields)
def test_a_typed_message_arrives_as_it_was_sent(kind: Any, values: dict[str, Any]) -> None:
    codec = MessageCodec(kind, "trade")
    sent = kind(**values)
    body, seen = codec.encode(sent)
    assert seen == sent and type(seen) is type(sent)
    assert codec.decode(body) == sent
    assert codec.encode(values)[1] == sent


@pytest.mark.parametrize("kind", KINDS)
@given(values=fields)
def test_a_typed_message_of_a_stock_celery_client_arrives_the_same(kind: Any, values: dict[str, Any]) -> None:
    codec = MessageCodec(kind, "trade")
    by_commit_number = kombu_dumps([[values], {}, {"callbacks": None, "errbacks": None, "chain": None, "chord": None}])
    by_name = kombu_dumps([[], {"trade": values}, {}])
    assert codec.decode(by_commit_number.encode()) == codec.decode(by_name.encode()) == kind(**values)


@given(plain)
def test_an_untyped_message_arrives_as_it_was_sent(message: Any) -> None:
    codec = MessageCodec(Any, "message")
    body, seen = codec.encode(message)
    assert seen == message
    assert json.loads(body) == [[message], {}, {}]


@given(kombu_values)
def test_kombus_datetimes_decimals_uuids_and_bytes_are_restored(message: Any) -> None:
    body = kombu_dumps([[message], {}, {}]).encode()
    seen = MessageCodec(Any, "message").decode(body)
    assert seen == message and type(seen) is type(message)


@given(st.decimals(allow_nan=False, allow_infinity=False))
def test_a_decimal_field_keeps_every_digit(value: Decimal) -> None:
    seen = MessageCodec(Decimal, "cost").encode(value)[1]
    assert (seen, seen.as_tuple()) == (value, value.as_tuple())


@given(plain, st.booleans(), st.sampled_from([None, "application/x-gzip", "zlib"]), st.booleans())
def test_each_way_to_wrap_a_message_unwraps_to_it(
    message: Any, ascii_only: bool, compression: str | None, protocol_1: bool
) -> None:
    content: Any = [[message], {}, {}]
    headers: dict[str, Any] = {"task": "count", "id": "m", "compression": compression}
    if protocol_1:
        content = {"task": "count", "id": "m", "args": [message], "kwargs": {}}
        headers |= {"task": None, "id": None}
    body = json.dumps(content, ensure_ascii=ascii_only).encode()
    opened = open_envelope(raw_envelope(gzip.compress(body, 1) if compression else body, headers=headers))
    assert (opened.headers.task, opened.headers.id) == ("count", "m")
    assert MessageCodec(Any, "message").decode(opened.body) == message


@given(fields)
def test_an_unencoded_body_is_the_same_as_one_in_base64(values: dict[str, Any]) -> None:
    body = kombu_dumps([[values], {}, {}])
    plain_body = raw_envelope(b"", properties={"body_encoding": None}, body=body)
    in_base64 = raw_envelope(b"", body=base64.b64encode(body.encode()).decode())
    codec = MessageCodec(Trade, "trade")
    assert asdict(codec.decode(open_envelope(plain_body).body)) == values
    assert open_envelope(plain_body).body == open_envelope(in_base64).body
