"""pydantic models and dataclasses as messages, or anywhere inside one. pydantic is not a dependency: its classes are known by their attributes.

JSON does not give every pydantic value back: a `SecretStr` becomes asterisks, and a field with `exclude=True` is left out. So a sender compares
what it sends with what a worker will see.
"""

from __future__ import annotations

import dataclasses
import typing
from typing import Any

import msgspec

from celery_partitions.model.redaction import unquoted_of_pydantic


def is_pydantic(kind: object) -> bool:
    """Whether this is a pydantic model or dataclass."""
    return isinstance(kind, type) and hasattr(kind, "__pydantic_validator__")


def json_of(value: Any) -> bytes:
    """A pydantic object as JSON."""
    kind = typing.cast(Any, type(value))
    # Use the names that validation reads: aliases, unless an alias is only for serialization.
    fields = kind.__pydantic_fields__.values()
    by_alias = all(field.validation_alias or not field.serialization_alias for field in fields)
    if hasattr(kind, "model_dump_json"):
        return typing.cast(str, value.model_dump_json(by_alias=by_alias)).encode()
    return bytes(kind.__pydantic_serializer__.to_json(value, by_alias=by_alias))


def validate(kind: type, value: Any) -> Any:
    """A pydantic object from decoded JSON, or from another object of the class. Raises what pydantic raises."""
    known = typing.cast(Any, kind)
    return known.model_validate(value) if hasattr(kind, "model_validate") else known.__pydantic_validator__.validate_python(value)


def encode_inside(value: Any) -> Any:
    """For msgspec: a pydantic object inside another message. Raises `TypeError` for anything else."""
    if is_pydantic(type(value)):
        return msgspec.Raw(json_of(value))
    raise TypeError(f"Encoding objects of type {type(value).__qualname__} is unsupported")


def plain_inside(value: Any) -> Any:
    """For msgspec's `to_builtins`: the fields of a pydantic object."""
    if is_pydantic(type(value)):
        return {name: getattr(value, name) for name in type(value).__pydantic_fields__}
    return None


def decode_inside(kind: type, value: Any) -> Any:
    """For msgspec: decode a pydantic object inside another message. Raises `ValueError` without the message's contents."""
    if not is_pydantic(kind):
        raise ValueError(f"{kind.__qualname__} can't be decoded")
    try:
        return validate(kind, value)
    except ValueError as error:
        raise ValueError(unquoted_of_pydantic(error)) from None


def classes_in(kind: Any) -> list[type]:
    """The classes in a type that msgspec does not convert by itself, and pydantic's dataclasses."""
    found: list[type] = []
    seen: set[int] = set()

    def look(node: Any) -> None:
        if id(node) in seen or not isinstance(node, msgspec.Struct):
            return
        seen.add(id(node))
        if isinstance(node, msgspec.inspect.CustomType) or (isinstance(node, msgspec.inspect.DataclassType) and is_pydantic(node.cls)):
            found.append(node.cls)
        for name in node.__struct_fields__:
            value = getattr(node, name)
            for inner in value if isinstance(value, tuple) else (value,):
                look(inner)

    look(msgspec.inspect.type_info(kind))
    return found


def field_that_never_arrives(kind: Any, path: str = "$", seen: frozenset[Any] = frozenset()) -> str | None:
    """The path of a field of a pydantic class whose value JSON never gives back: a required secret without a serializer, or a required field that the
    model leaves out. None if there is no such field, or the class writes itself (`model_serializer`)."""
    if typing.get_args(kind):
        return _first(field_that_never_arrives(one, path, seen) for one in typing.get_args(kind))
    if not is_pydantic(kind) or kind in seen:
        return None
    decorators = kind.__pydantic_decorators__
    if decorators.model_serializers or getattr(kind, "model_config", {}).get("json_encoders"):
        return None
    written = {name for one in decorators.field_serializers.values() for name in one.info.fields}
    for name, field in kind.__pydantic_fields__.items():
        here = f"{path}.{name}"
        if field.exclude and field.is_required():
            return here
        if name in written or "*" in written or any(type(one).__name__.endswith("Serializer") for one in field.metadata):
            continue
        if field.is_required() and _holds_secret(field.annotation):
            return here
        inside = field_that_never_arrives(field.annotation, here, seen | {kind})
        if inside is not None:
            return inside
    return None


def _holds_secret(annotation: Any) -> bool:
    """Whether this is a `SecretStr` or the like, or a container of them."""
    return hasattr(annotation, "get_secret_value") or any(map(_holds_secret, typing.get_args(annotation)))


def changed_field(sent: Any, got: Any, path: str = "$") -> str | None:
    """The path of the first field of a pydantic object that arrives with another value; None if all are the same.

    Compares objects with objects. What was sent as a dict is the sender's own JSON.
    """
    if is_pydantic(type(sent)):
        # Usually all is equal, and this finds it out fastest.
        if type(got) is not type(sent) or _is_equal(sent.__dict__, got.__dict__, unknown=False):
            return None
        names = list(type(sent).__pydantic_fields__)
        return _first(changed_value(getattr(sent, name), getattr(got, name), f"{path}.{name}") for name in names)
    return _inside(sent, got, path, changed_field)


def changed_value(sent: Any, got: Any, path: str) -> str | None:
    """The same for the value of a pydantic field, which was validated before."""
    if is_pydantic(type(sent)) and type(got) is type(sent):
        return changed_field(sent, got, path)
    if isinstance(sent, list | tuple | dict) and type(got) is type(sent) and len(got) == len(sent):
        return _inside(sent, got, path, changed_value)
    can_be_compared = getattr(type(sent), "__eq__", None) is not object.__eq__
    return path if can_be_compared and not _is_equal(sent, got, unknown=True) else None


def _is_equal(one: Any, other: Any, *, unknown: bool) -> bool:
    """Whether two values are equal; `unknown` if their class can't tell."""
    try:
        return bool(one == other)
    except Exception:
        return unknown


def _inside(sent: Any, got: Any, path: str, compare: Any) -> str | None:
    if isinstance(sent, dict) and isinstance(got, dict):
        return _first(compare(value, got[name], f"{path}.{name}") for name, value in sent.items() if name in got)
    if isinstance(sent, list | tuple) and isinstance(got, list | tuple):
        return _first(compare(one, other, f"{path}[{number}]") for number, (one, other) in enumerate(zip(sent, got, strict=False)))
    if type(sent) is type(got):
        if isinstance(sent, msgspec.Struct):
            names = list(sent.__struct_fields__)
        elif dataclasses.is_dataclass(sent) and not isinstance(sent, type):
            names = [field.name for field in dataclasses.fields(sent)]
        else:
            return None
        return _first(compare(getattr(sent, name, None), getattr(got, name, None), f"{path}.{name}") for name in names)
    return None


def _first(found: Any) -> str | None:
    return next((path for path in found if path is not None), None)
