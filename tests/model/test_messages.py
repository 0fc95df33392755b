"""The user's message in a body: it is converted to its type, or refused with the path of the field."""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any, NotRequired, TypedDict
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from kombu.utils.json import dumps as kombu_dumps

from celery_partitions.model.errors import DeclarationError, MessageError
from celery_partitions.model.message_codec import MessageCodec


@dataclass
class Stock:
    symbol: str
    price: float
    at: datetime | None = None


class StructStock(msgspec.Struct):
    symbol: str
    price: float


class DictStock(TypedDict):
    symbol: str
    price: float
    note: NotRequired[str]


@attrs.define
class AttrsStock:
    symbol: str
    price: float


class ModelStock(pydantic.BaseModel):
    symbol: str
    price: float


class Aliased(pydantic.BaseModel):
    price: float = pydantic.Field(default=0.0, alias="px")


class WrittenByAlias(pydantic.BaseModel):
    price: float = pydantic.Field(default=0.0, serialization_alias="px")


def codec(annotation: Any = Any) -> MessageCodec:
    return MessageCodec(annotation, "stock")


def body(message: Any) -> bytes:
    return json.dumps([[message], {}, {"chain": None}]).encode()


KINDS: list[tuple[Any, Any]] = [
    (Stock, Stock("A", 1.5)),
    (StructStock, StructStock("A", 1.5)),
    (DictStock, {"symbol": "A", "price": 1.5}),
    (AttrsStock, AttrsStock("A", 1.5)),
    (ModelStock, ModelStock(symbol="A", price=1.5)),
]


@pytest.mark.parametrize(("annotation", "expected"), KINDS)
def test_the_object_and_its_dict_arrive_as_the_same_object(annotation: Any, expected: Any) -> None:
    made, as_object = codec(annotation).encode(expected)
    _, as_dict = codec(annotation).encode({"symbol": "A", "price": 1.5})
    assert as_object == as_dict == expected and type(as_object) is type(expected)
    assert codec(annotation).decode(made) == expected
    assert json.loads(made)[1:] == [{}, {}]


@pytest.mark.parametrize(("annotation", "_"), KINDS)
@pytest.mark.parametrize("price", ["dear", None, float("nan")])
def test_a_field_that_does_not_fit_is_named_at_producer_and_worker(annotation: Any, _: Any, price: object) -> None:
    for take in (codec(annotation).encode, lambda message: codec(annotation).decode(body(message))):
        with pytest.raises(MessageError, match=r"price|not JSON") as caught:
            take({"symbol": "A", "price": price})
        assert caught.value.reason in ("wrong-type", "not-json")


@pytest.mark.parametrize("model", [Aliased(px=2.0), WrittenByAlias(price=2.0)])
def test_a_pydantic_model_with_aliases_arrives_with_its_values(model: Any) -> None:
    assert codec(type(model)).encode(model)[1] == model


@pytest.mark.parametrize("message", [None, True, 0, 2**70, 1.5, "x", [], [1, [2]], {"a": {"b": None}}, "é\U0001f600"])
def test_an_untyped_message_is_the_json_value(message: object) -> None:
    made, seen = codec().encode(message)
    assert seen == message and codec().decode(made) == message


class Reading(pydantic.BaseModel):
    value: float | None = None


@dataclass
class Measured:
    value: float | None = None


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    ("annotation", "make", "path"),
    [
        (None, lambda number: {"a": [1, {"b": number}]}, r"\$\.a\[1\]\.b"),
        (Measured, Measured, r"\$\.value"),
        (Measured, lambda number: {"value": number}, r"\$\.value"),
        (Reading, lambda number: Reading(value=number), r"\$\.value"),
    ],
)
def test_nan_and_infinity_are_refused_and_never_become_none(annotation: Any, make: Any, path: str, number: float) -> None:
    made = codec(annotation) if annotation else codec()
    with pytest.raises(MessageError, match=rf"JSON has no -?(nan|inf).*{path}"):
        made.encode(make(number))
    made.encode(make(None))


@pytest.mark.parametrize("message", [object(), {(1, 2): 3}, "\ud800", [complex(1)], lambda: None])
def test_what_json_cannot_express_is_refused_at_the_producer(message: object) -> None:
    with pytest.raises(MessageError, match="can't be encoded as JSON"):
        codec().encode(message)


def test_a_message_nested_too_deeply_is_refused_and_not_a_crash() -> None:
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with pytest.raises(MessageError):
        codec().encode(deep)
    with pytest.raises(MessageError, match="the body is nested too deeply"):
        codec().decode(b"[[" + b"[" * 100_000 + b"]" * 100_000 + b"],{},{}]")


VALUES = {
    "at": datetime(2026, 1, 2, 3, tzinfo=UTC),
    "day": date(2026, 1, 2),
    "id": UUID(int=5),
    "cost": Decimal("1.10"),
}


def test_kombus_own_types_are_restored() -> None:
    assert codec().decode(kombu_dumps([[VALUES], {}, {}]).encode()) == VALUES


def test_kombus_own_types_are_accepted_by_typed_fields() -> None:
    message = {"symbol": "A", "price": 1.5, "at": VALUES["at"]}
    assert codec(Stock).decode(kombu_dumps([[message], {}, {}]).encode()) == Stock("A", 1.5, VALUES["at"])  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("uuid", {"hex": 5}),
        ("uuid", 5),
        ("bytes", 5),
        ("base64", 5),
        ("decimal", [1, 2]),
        ("decimal", "x"),
        ("datetime", 5),
        ("date", "x"),
        ("time", {}),
        ("unknown", 5),
        ([], 5),
        (None, None),
    ],
)
def test_a_kombu_type_with_a_wrong_value_is_refused(kind: Any, value: Any) -> None:
    with pytest.raises(MessageError) as caught:
        codec().decode(body({"__type__": kind, "__value__": value}))
    assert caught.value.reason == "wrong-type"


def test_a_field_that_only_has_the_name_of_kombus_marker_is_unchanged() -> None:
    assert codec().decode(body({"__type__": "uuid", "x": '"__type__"'})) == {"__type__": "uuid", "x": '"__type__"'}


def test_the_message_may_be_a_keyword_argument() -> None:
    by_name = json.dumps([[], {"stock": {"symbol": "A", "price": 1}}, {}]).encode()
    assert codec(Stock).decode(by_name) == Stock("A", 1.0)
    assert codec().decode(b'[["x"], null]') == "x"


@pytest.mark.parametrize(
    "content",
    [
        [[], {}, {}],
        [[1, 2], {}, {}],
        [[1], {"stock": 2}, {}],
        [[], {"other": 1}, {}],
        [[], {"stock": 1, "b": 2}, {}],
        [[1], 5, {}],
        [[1], [1, "a"], {}],
        [[1], "kw", {}],
        [5, {}, {}],
        [None, None, {}],
        [{"a": 1}, {}, {}],
        [[1]],
        [],
        {},
        None,
        5,
        "x",
    ],
)
def test_anything_except_exactly_one_message_is_refused(content: Any) -> None:
    with pytest.raises(MessageError) as caught:
        codec().decode(json.dumps(content).encode())
    assert caught.value.reason == "wrong-arguments"


@dataclass
class Raises:
    price: float

    def __post_init__(self) -> None:
        {}[self.price]


class ModelRaises(pydantic.BaseModel):
    price: float

    @pydantic.field_validator("price")
    @classmethod
    def check(cls, price: float) -> float:
        return {}[price]  # type: ignore[no-any-return]


@pytest.mark.parametrize("annotation", [Raises, ModelRaises])
def test_an_exception_of_the_message_class_is_a_refusal_with_its_cause(annotation: Any) -> None:
    for take in (codec(annotation).encode, lambda message: codec(annotation).decode(body(message))):
        with pytest.raises(MessageError, match="KeyError: 1") as caught:
            take({"price": 1.5})
        assert isinstance(caught.value.__cause__, KeyError)


class Plain:
    pass


@pytest.mark.parametrize("annotation", [Plain, Stock | StructStock | Plain, complex])
def test_a_type_that_json_cannot_be_converted_to_is_refused_when_declared(annotation: Any) -> None:
    with pytest.raises(DeclarationError, match="Annotate the first parameter"):
        codec(annotation)


def test_text_cells_are_converted_to_the_types_of_the_fields() -> None:
    assert codec(Stock).from_text({"symbol": "7", "price": "1.5", "at": None}) == Stock("7", 1.5, None)
    assert codec(ModelStock).from_text({"symbol": "A", "price": "1.5"}) == ModelStock(symbol="A", price=1.5)
    assert codec().from_text({"price": "1.5"}) == {"price": "1.5"}
    with pytest.raises(MessageError, match="price"):
        codec(Stock).from_text({"symbol": "A", "price": "dear"})
