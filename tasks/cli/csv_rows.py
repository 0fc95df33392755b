"""Decides which empty cells of a CSV row are null, from the fields of the message class."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping
from typing import Any

from msgspec import inspect

#: A function that returns, for a row, the names of the fields that may be null.
Nullable = Callable[[Mapping[str, str]], Container[str]]


def with_nulls(row: Mapping[str, str], nullable: Nullable) -> dict[str, str | None]:
    """The row with null for each empty cell whose field may be null. Other empty cells stay empty strings."""
    if "" not in row.values():
        return dict(row)
    names = nullable(row)
    return {name: None if cell == "" and name in names else cell for name, cell in row.items()}


def nullable_of(annotation: Any) -> Nullable:
    """A function that finds the fields that may be null, by their names in JSON.

    A field without a type, or with `Any`, keeps an empty string, because null may not be meant. For tagged structs the row's tag
    selects the struct.
    """
    if hasattr(annotation, "__pydantic_validator__"):
        names = frozenset(_of_model(annotation))
        return lambda _: names
    shape = inspect.type_info(annotation)
    return lambda row: frozenset(_of_shape(shape, row))


def _of_model(model: Any) -> Iterator[str]:
    by_name = model.model_config.get("populate_by_name") or model.model_config.get("validate_by_name")
    for name, field in model.model_fields.items():
        if _says_none(field.annotation):
            alias = field.validation_alias
            aliases = [one for one in (alias, *getattr(alias, "choices", ())) if isinstance(one, str)]
            yield from aliases
            if by_name or not aliases:
                yield name


def _says_none(annotation: Any) -> bool:
    annotation = getattr(annotation, "__value__", annotation)  # an alias: `type Price = float | None`
    match typing.get_origin(annotation):
        case typing.Annotated:
            return _says_none(typing.get_args(annotation)[0])
        case typing.Literal | typing.Union | types.UnionType:
            return any(map(_says_none, typing.get_args(annotation)))
    return annotation is None or annotation is types.NoneType


def _of_shape(shape: inspect.Type, row: Mapping[str, str]) -> Iterator[str]:
    for one in _members(shape):
        match one:
            case inspect.StructType(tag_field=str(field), tag=tag) if field in row and row[field] != str(tag):
                continue
            case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
                yield from (field.encode_name for field in one.fields if _may_be_null(field.type))
            case inspect.DictType() if _may_be_null(one.value_type):
                yield from row


def _may_be_null(shape: inspect.Type) -> bool:
    return any(
        isinstance(one, inspect.NoneType) or (isinstance(one, inspect.LiteralType) and None in one.values)
        for one in _members(shape)
    )


def _members(shape: inspect.Type) -> Iterator[inspect.Type]:
    """The types of a union, or the single type. Metadata of a type is dropped."""
    match shape:
        case inspect.Metadata(type=inner):
            yield from _members(inner)
        case inspect.UnionType(types=members):
            for one in members:
                yield from _members(one)
        case _:
            yield shape
