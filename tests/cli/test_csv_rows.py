"""Messages from CSV rows: an empty cell is null only if its field may be null."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypedDict

import attrs
import msgspec
import pydantic
import pytest

from celery_partitions.cli.csv_rows import nullable_of, with_nulls
from celery_partitions.model.errors import MessageError
from celery_partitions.model.message_codec import MessageCodec


def message_of(annotation: Any, row: dict[str, str]) -> Any:
    """Read a row in the same way as `partitions send`."""
    return MessageCodec(annotation, "row").from_text(with_nulls(row, nullable_of(annotation)))


@dataclass
class Noted:
    note: str
    price: float | None = None


class StructNoted(msgspec.Struct, rename="camel"):
    a_note: str
    a_price: Annotated[float | None, msgspec.Meta(extra={"partition": "USD"})] = 0.0


class DictNoted(TypedDict):
    note: str
    price: float | None


@attrs.define
class AttrsNoted:
    note: str
    price: Literal["dear", None] = "dear"


class ModelNoted(pydantic.BaseModel):
    note: str
    price: Annotated[float | None, pydantic.Field(gt=0)] = 0.5


class ModelAliased(pydantic.BaseModel):
    """Each of two fields has the other's name as its alias."""

    note: str = pydantic.Field(alias="price")
    price: float | None = pydantic.Field(0.5, validation_alias=pydantic.AliasChoices("note", "px"))


class ModelByEither(pydantic.BaseModel, populate_by_name=True):
    note: str
    price: Literal[1, None] | None = pydantic.Field(None, alias="px")


@pytest.mark.parametrize(
    ("annotation", "row", "message"),
    [
        (Noted, {"note": "", "price": ""}, Noted("", None)),
        (Noted, {"note": "", "price": "1.5"}, Noted("", 1.5)),
        (StructNoted, {"aNote": "", "aPrice": ""}, StructNoted("", None)),
        (DictNoted, {"note": "", "price": ""}, {"note": "", "price": None}),
        (AttrsNoted, {"note": "", "price": ""}, AttrsNoted("", None)),
        (Noted | None, {"note": "", "price": ""}, Noted("", None)),
        (dict[str, float | None], {"a": "", "b": "1.5"}, {"a": None, "b": 1.5}),
        (dict[str, Any], {"a": "", "b": "1.5"}, {"a": "", "b": "1.5"}),
        (ModelNoted, {"note": "", "price": ""}, ModelNoted(note="", price=None)),
        (ModelNoted, {"note": "", "price": "1.5"}, ModelNoted(note="", price=1.5)),
        (ModelAliased, {"price": "", "note": ""}, ModelAliased.model_validate({"price": "", "note": None})),
        (ModelByEither, {"note": "", "price": ""}, ModelByEither(note="", px=None)),
        (ModelByEither, {"note": "", "px": ""}, ModelByEither(note="", px=None)),
        (Any, {"note": ""}, {"note": ""}),
    ],
)
def test_empty_cells_are_null_if_the_field_may_be_null(annotation: Any, row: dict[str, str], message: Any) -> None:
    assert message_of(annotation, row) == message


@dataclass
class BothMayBeNull:
    note: str | None = None
    price: float | None = None


@pytest.mark.parametrize("price", ["", "1.5"])
def test_a_cell_is_read_independently_of_the_others(price: str) -> None:
    assert message_of(BothMayBeNull, {"note": "", "price": price}).note is None


class Buy(msgspec.Struct, tag="buy"):
    price: float | None


class Sell(msgspec.Struct, tag="sell"):
    price: str


@pytest.mark.parametrize(("row", "message"), [({"type": "buy", "price": ""}, Buy(None)), ({"type": "sell", "price": ""}, Sell(""))])
def test_the_rows_tag_selects_the_struct(row: dict[str, str], message: Buy | Sell) -> None:
    assert message_of(Buy | Sell, row) == message


class ModelStrict(pydantic.BaseModel):
    price: float


@dataclass
class Priced:
    price: float


@pytest.mark.parametrize("annotation", [Priced, ModelStrict])
def test_an_empty_cell_of_a_field_that_may_not_be_null_is_refused_with_its_path(annotation: Any) -> None:
    with pytest.raises(MessageError, match=r"\$\.price"):
        message_of(annotation, {"price": ""})


@dataclass
class Raises:
    price: float

    def __post_init__(self) -> None:
        {}[self.price]


def test_an_exception_of_the_message_class_is_a_refusal_with_its_cause() -> None:
    with pytest.raises(MessageError, match="KeyError: 1") as caught:
        message_of(Raises, {"price": "1.5"})
    assert isinstance(caught.value.__cause__, KeyError)
