"""Reads CSV rows by the fields of the message class: which column is which field, and which empty cells are null."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from difflib import get_close_matches
from typing import Any

from msgspec import inspect

from celery_partitions.model.errors import MessageError

#: A function that returns, for a row, the names of the fields that may be null.
Nullable = Callable[[Mapping[str, str]], Container[str]]


def columns_of(header: Sequence[str], annotation: Any, say: Callable[[str], None]) -> list[str | None]:
    """The field of each column; None for a column without a name or a field, which is left out. `say` gets what was left out.

    Raises `MessageError` if a name occurs twice, or looks like a field that no column has.
    """
    names = [name.strip() for name in header]
    twice = next((name for name in names if name and names.count(name) > 1), None)
    if twice is not None:
        raise MessageError(f"two columns have the name {twice!r}")
    fields = fields_of(annotation)
    if fields is None:
        return [name or None for name in names]
    missing = {name.casefold(): name for name in fields.difference(names)}
    for name in names:
        likely = [] if not name or name in fields else get_close_matches(name.casefold(), missing, 1)
        if likely:
            raise MessageError(f"no field has the name {name!r} of a column. Did you mean {missing[likely[0]]!r}?")
    ignored = [name for name in names if name and name not in fields]
    if ignored:
        say(f"ignored columns, because no field has their name: {', '.join(ignored)}")
    return [name if name in fields else None for name in names]


def fields_of(annotation: Any) -> frozenset[str] | None:
    """The names that the fields of a message may have in JSON; None if any name is accepted."""
    if hasattr(annotation, "__pydantic_validator__"):
        if getattr(annotation, "model_config", {}).get("extra") == "allow":
            return None
        return frozenset(name for field in annotation.__pydantic_fields__ for name in _names_in_model(annotation, field))
    found: set[str] = set()
    for one in _members(inspect.type_info(annotation)):
        match one:
            case inspect.StructType() | inspect.DataclassType() | inspect.TypedDictType():
                found.update(field.encode_name for field in one.fields)
                if isinstance(one, inspect.StructType) and isinstance(one.tag_field, str):
                    found.add(one.tag_field)
            case inspect.NoneType():
                pass
            case _:
                return None
    return frozenset(found)


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
    if hasattr(annotation, "__pydantic_fields__"):
        names = frozenset(_of_model(annotation))
        return lambda _: names
    shape = inspect.type_info(annotation)
    return lambda row: frozenset(_of_shape(shape, row))


def _of_model(model: Any) -> Iterator[str]:
    for name, field in model.__pydantic_fields__.items():
        if _says_none(field.annotation):
            yield from _names_in_model(model, name)


def _names_in_model(model: Any, name: str) -> Iterator[str]:
    """The names that a field of a pydantic class may have in JSON."""
    config = getattr(model, "model_config", {})
    alias = model.__pydantic_fields__[name].validation_alias
    aliases = [one for one in (alias, *getattr(alias, "choices", ())) if isinstance(one, str)]
    yield from aliases
    if config.get("populate_by_name") or config.get("validate_by_name") or not aliases:
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
