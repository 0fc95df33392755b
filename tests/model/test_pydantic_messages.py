"""pydantic objects anywhere in messages. Values that JSON would change are refused by the sender."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, TypedDict

import msgspec
import pydantic
import pydantic.dataclasses
import pytest

from celery_partitions.model.errors import DeclarationError, MessageError
from celery_partitions.model.message_codec import MessageCodec


class Model(pydantic.BaseModel):
    symbol: str
    price: pydantic.PositiveFloat = pydantic.Field(default=1.0, alias="px")
    model_config = pydantic.ConfigDict(populate_by_name=True)


@dataclass
class Holder:
    model: Model
    more: list[Model] = field(default_factory=list)


class Typed(TypedDict):
    model: Model


class Struct(msgspec.Struct):
    models: dict[str, Model | None]


@pydantic.dataclasses.dataclass
class Point:
    x: pydantic.PositiveInt
    y: int = 0


@dataclass
class Line:
    points: list[Point]


ONE, OTHER = Model(symbol="A", price=2.5), Model(symbol="B", price=3.5)

MESSAGES = {
    "a model": (Model, ONE),
    "an optional one": (Model | None, ONE),
    "none of it": (Model | None, None),
    "a list": (list[Model], [ONE, OTHER]),
    "in a dataclass": (Holder, Holder(ONE, [OTHER])),
    "in a TypedDict": (Typed, {"model": ONE}),
    "in a Struct": (Struct, Struct({"a": ONE, "b": None})),
    "a dataclass of pydantic": (Point, Point(1, 2)),
    "such dataclasses in another": (Line, Line([Point(1, 2), Point(3, 4)])),
}


@pytest.mark.parametrize(("annotation", "message"), MESSAGES.values(), ids=MESSAGES)
def test_it_arrives_as_it_was_sent(annotation: Any, message: Any) -> None:
    codec = MessageCodec(annotation, "message")
    body, decoded = codec.encode(message)
    assert decoded == message and type(decoded) is type(message)
    assert codec.decode(body) == message


@pytest.mark.parametrize(
    ("annotation", "message", "path"),
    [
        (list[Model], [{"symbol": "A", "px": "secret"}], "$[0]"),
        (Holder, {"model": {"symbol": "A", "px": -1}}, "$.model"),
        (Model | None, {"px": 1}, "symbol"),
        (Point, {"x": -1}, "$.x"),
    ],
)
def test_an_invalid_one_is_refused_with_its_place_and_without_its_contents(annotation: Any, message: Any, path: str) -> None:
    with pytest.raises(MessageError) as refused:
        MessageCodec(annotation, "message").encode(message)
    assert path in str(refused.value) and "secret" not in str(refused.value)


class Custom:
    pass


@dataclass
class HoldsCustom:
    custom: list[Custom]


def test_a_class_that_cannot_be_decoded_is_refused_on_declaration_at_any_depth() -> None:
    for annotation in (Custom, list[Custom], HoldsCustom):
        with pytest.raises(DeclarationError, match="Custom"):
            MessageCodec(annotation, "message")


class Login(pydantic.BaseModel):
    user: str
    password: pydantic.SecretStr = pydantic.SecretStr("")
    note: str | None = pydantic.Field(default=None, exclude=True)


class Logins(pydantic.BaseModel):
    by_user: dict[str, list[Login]]


class Written(Login):
    @pydantic.field_serializer("password", when_used="json")
    def write(self, password: pydantic.SecretStr) -> str:
        return password.get_secret_value()


@dataclass
class Batch:
    logins: tuple[Login, ...]


HIDDEN, EXCLUDED = Login(user="u", password=pydantic.SecretStr("p")), Login(user="u", note="n")


@pytest.mark.parametrize(
    ("annotation", "message", "path"),
    [
        (Login, HIDDEN, "$.password"),
        (Login, EXCLUDED, "$.note"),
        (Logins, Logins(by_user={"u": [Login(user="v"), HIDDEN]}), "$.by_user.u[1].password"),
        (list[Login], [EXCLUDED], "$[0].note"),
        (Batch, Batch((Login(user="u"), HIDDEN)), "$.logins[1].password"),
    ],
)
def test_a_value_that_json_would_change_is_refused_by_the_sender(annotation: Any, message: Any, path: str) -> None:
    with pytest.raises(MessageError, match="JSON does not give this field's value back") as refused:
        MessageCodec(annotation, "message").encode(message)
    assert f"at `{path}`" in str(refused.value)


def test_a_value_that_json_keeps_is_sent() -> None:
    codec = MessageCodec(Written, "message")
    _, decoded = codec.encode(Written(user="u", password=pydantic.SecretStr("p")))
    assert decoded.password.get_secret_value() == "p"
    MessageCodec(Login, "message").encode(Login(user="u"))
    _, from_dict = MessageCodec(Login, "message").encode({"user": "u", "password": "p", "note": "n"})
    assert (from_dict.password.get_secret_value(), from_dict.note) == ("p", "n")


class Grid:
    """Like an array: comparing two gives no truth value."""

    def __init__(self, cells: list[int]) -> None:
        self.cells = cells

    def __eq__(self, other: object) -> Any:
        raise ValueError("the truth value is ambiguous")


class HoldsGrid(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(arbitrary_types_allowed=True)
    grid: Grid
    password: pydantic.SecretStr = pydantic.SecretStr("")

    @pydantic.field_serializer("grid")
    def write(self, grid: Grid) -> list[int]:
        return grid.cells

    @pydantic.field_validator("grid", mode="before")
    @classmethod
    def read(cls, grid: Any) -> Any:
        return Grid(grid) if isinstance(grid, list) else grid


def test_what_cannot_be_compared_is_sent() -> None:
    _, decoded = MessageCodec(HoldsGrid, "message").encode(HoldsGrid(grid=Grid([1, 2])))
    assert decoded.grid.cells == [1, 2]
    with pytest.raises(MessageError, match=r"at `\$.password`"):
        MessageCodec(HoldsGrid, "message").encode(HoldsGrid(grid=Grid([1]), password=pydantic.SecretStr("p")))


def test_numbers_that_json_does_not_have_are_refused_at_any_depth() -> None:
    class Loose(pydantic.BaseModel):
        price: float | None = None

    for annotation, message, path in ((list[Loose], [Loose(price=float("nan"))], "$[0].price"), (Loose, Loose(price=float("inf")), "$.price")):
        with pytest.raises(MessageError, match="JSON has no") as refused:
            MessageCodec(annotation, "message").encode(message)
        assert f"at `{path}`" in str(refused.value)


def test_foreign_json_is_read_by_the_same_rules() -> None:
    body = json.dumps([[], {"message": [{"symbol": "A", "px": 2.5}]}, {}]).encode()
    assert MessageCodec(list[Model], "message").decode(body) == [ONE]


class Key(pydantic.BaseModel):
    user: str
    secret: pydantic.SecretStr


class LeftOut(pydantic.BaseModel):
    user: str = pydantic.Field(exclude=True)


class Inside(pydantic.BaseModel):
    keys: list[Key | None]


class WrittenKey(Key):
    @pydantic.field_serializer("secret")
    def write(self, secret: pydantic.SecretStr) -> str:
        return secret.get_secret_value()


@dataclass
class HoldsKey:
    key: Key


@pytest.mark.parametrize(
    ("annotation", "path"), [(Key, "$.secret"), (Key | None, "$.secret"), (HoldsKey, "$.secret"), (LeftOut, "$.user"), (Inside, "$.keys.secret")]
)
def test_a_class_whose_messages_could_never_arrive_is_refused_when_declared(annotation: Any, path: str) -> None:
    with pytest.raises(DeclarationError, match=f"{path.replace('$', '[$]')}` back .*field_serializer"):
        MessageCodec(annotation, "message")


def test_a_secret_with_a_serializer_is_declared() -> None:
    key = WrittenKey(user="u", secret=pydantic.SecretStr("s"))
    assert MessageCodec(WrittenKey, "message").encode(key)[1] == key
