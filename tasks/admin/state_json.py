"""Converts JSON to a state object, with the state class as the schema, and a state object to plain values.

Dataclasses, `msgspec.Struct`s, attrs classes and pydantic models declare their fields. The fields of a plain class are its
annotations, its class attributes, and the attributes of a new object. A field without an annotation has the type of its default.
"""

from __future__ import annotations

import ast
import collections
import contextlib
import copy
import dataclasses
import datetime
import decimal
import enum
import inspect
import pathlib
import sys
import textwrap
import typing
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import msgspec.inspect

from celery_partitions.model.errors import StateError, describe, encodable
from celery_partitions.model.messages import kind_of_json
from celery_partitions.model.state import StateClass

#: Types that JSON values are converted to if only a field's default is known.
_PLAIN = (bool, int, float, str, bytes, list, dict, set, tuple, frozenset)

#: Types that are one value for people, whatever attributes they have: written as JSON writes them (ISO 8601, decimal digits, base64).
SCALARS = (datetime.datetime, datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID, bytes, bytearray, pathlib.PurePath)
_CONTAINERS = (dict, list, collections.deque)
#: Values nested deeper than this are shown as "…".
MAX_DEPTH = 20


def state_from_json(state_class: StateClass[Any], text: str | bytes, base: Any = None) -> Any:
    """A new state object from a JSON object. Missing fields are taken from `base`, or have their defaults without a `base`.

    `base` is not changed. Raises `StateError` with the path of an unknown field or a value of the wrong type.
    """
    try:
        given = msgspec.json.decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise StateError(f"not JSON: {error}") from None
    if not isinstance(given, dict):
        raise StateError(f"expected a JSON object, not {kind_of_json(given)}")
    cls = state_class.cls
    try:
        made = _whole(cls, given, base) if _says_its_fields(cls) else _by_attributes(state_class, given, base)
    except msgspec.ValidationError as error:
        raise StateError(f"{cls.__qualname__}: {error}") from None
    except StateError:
        raise
    except Exception as error:  # the class's own checks, or a type that JSON cannot be converted to
        raise StateError(f"{cls.__qualname__}: {describe(error)}") from error
    _refuse_unknown(given, made, "$")
    return state_class.complete(made)


def plain_fields(state: Any) -> dict[str, Any]:
    """The fields of a state object by name, including class attributes that it has not changed."""
    cls = type(state)
    names = _field_names(cls)
    if names is None:
        names = [*_class_attributes(cls), *getattr(state, "__dict__", {}), *_slots(cls)]
    return {name: getattr(state, name) for name in dict.fromkeys(names) if hasattr(state, name)}


def plain_value(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Any value in a form that JSON can represent: an object by its fields, or by its repr if it has none. Bounded in depth."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, float):
        return float.__float__(value)  # no encoder takes a subclass, such as numpy's floats
    if isinstance(value, int):
        return int.__int__(value) if _has_digits(value) else text_of(value)
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, SCALARS):
        return _scalar(value)
    if depth == 0:
        return "…"
    if isinstance(value, Mapping):
        return {_name_of(name): plain_value(one, depth - 1) for name, one in value.items()}
    if isinstance(value, list | tuple | set | frozenset | collections.deque):
        return [plain_value(one, depth - 1) for one in value]
    fields = {} if isinstance(value, type) else plain_fields(value)
    if fields and not isinstance(value, enum.Enum):
        return plain_value(fields, depth - 1)
    try:
        plain = msgspec.to_builtins(value)
    except Exception:
        return text_of(value)
    return plain_value(plain, depth - 1)


def _scalar(value: Any) -> Any:
    try:
        return encodable(str(value)) if isinstance(value, pathlib.PurePath) else msgspec.to_builtins(value)
    except Exception:
        return text_of(value)


def _name_of(key: Any) -> str:
    """A dictionary's key as JSON's name, in the form that converts back."""
    if isinstance(key, SCALARS):
        return str(_scalar(key))
    return text_of(key.value if isinstance(key, enum.Enum) else key, str)


def _made_of_text(kind: type, given: Any) -> Any:
    """For msgspec: a value of a type that it does not know, from JSON. Raises `NotImplementedError` for other types, as msgspec expects."""
    if issubclass(kind, pathlib.PurePath) and isinstance(given, str):
        return kind(given)
    raise NotImplementedError(f"values of type {kind.__qualname__} can't be made from JSON")


def text_of(value: Any, normalize: Callable[[Any], str] = repr) -> str:
    """A value's text for people. Never raises, whatever the value's class does, and can always be encoded."""
    try:
        return encodable(normalize(value))
    except Exception as error:
        if isinstance(value, int):
            return f"(an int of {value.bit_length():,} bits)"
        return f"(cannot be shown: {type(error).__name__})"


def _has_digits(value: int) -> bool:
    """False for an int of more than 4300 digits, which neither Python nor JSON encoders write."""
    try:
        return bool(int.__repr__(value))
    except ValueError:
        return False


def _says_its_fields(cls: type) -> bool:
    return _field_names(cls) is not None


def _field_names(cls: type) -> list[str] | None:
    """The declared fields by their Python names; None for a plain class."""
    if issubclass(cls, msgspec.Struct):
        return list(cls.__struct_fields__)
    if dataclasses.is_dataclass(cls):
        return [field.name for field in dataclasses.fields(cls)]
    if hasattr(cls, "__attrs_attrs__"):
        return [field.name for field in cls.__attrs_attrs__]
    if hasattr(cls, "__pydantic_validator__"):
        return list(typing.cast(Any, cls).model_fields)
    return None


def _whole(cls: type, given: dict[str, Any], base: Any) -> Any:
    if hasattr(cls, "__pydantic_validator__"):
        model = typing.cast(Any, cls)
        return model.model_validate({**({} if base is None else base.model_dump()), **given})
    before = {} if base is None else msgspec.to_builtins(base, str_keys=True, enc_hook=_scalar)
    return msgspec.convert({**before, **given}, cls, dec_hook=_made_of_text)


def _by_attributes(state_class: StateClass[Any], given: dict[str, Any], base: Any) -> Any:
    fresh = state_class.new()
    made = fresh if base is None else _copy(base, fresh)
    types = _types_of(state_class.cls, fresh)
    form = msgspec.defstruct(
        state_class.cls.__name__,
        [(name, kind, msgspec.UNSET) for name, kind in types.items() if name.isidentifier()],
        forbid_unknown_fields=True,
    )
    for name, value in _set_fields(msgspec.convert(given, form, dec_hook=_made_of_text)):
        setattr(made, name, _like(getattr(fresh, name, None), value))
    return made


def _like(first: Any, value: Any) -> Any:
    """A list or dict converted to the container of the default value: a deque with its bound, a defaultdict with its factory."""
    kind = type(first)
    if kind in _PLAIN or not isinstance(first, _CONTAINERS) or not isinstance(value, list | dict):
        return value
    container: Any = copy.copy(first)
    container.clear()
    (container.update if isinstance(value, dict) else container.extend)(value)
    return container


def _set_fields(form: msgspec.Struct) -> Iterator[tuple[str, Any]]:
    for name in form.__struct_fields__:
        value = getattr(form, name)
        if value is not msgspec.UNSET:
            yield name, value


def _copy(base: Any, fresh: Any) -> Any:
    for name in (*getattr(base, "__dict__", {}), *_slots(type(base))):
        if hasattr(base, name):
            setattr(fresh, name, getattr(base, name))
    return fresh


def _types_of(cls: type, fresh: Any) -> dict[str, Any]:
    hints = _hints_of(cls)
    types: dict[str, Any] = {
        name: hint for name, hint in hints.items() if typing.get_origin(hint) is not typing.ClassVar
    }
    shared = hints.keys() - types.keys()
    for name in (*_class_attributes(cls), *getattr(fresh, "__dict__", {}), *_slots(cls)):
        if name not in types and name not in shared:
            types[name] = _type_of(getattr(fresh, name, None))
    return types


def _hints_of(cls: type) -> dict[str, Any]:
    """The annotations of a plain class: those in its body, and `self.name: type` in its `__init__`. One that does not exist at run time is
    left out."""
    hints: dict[str, Any] = {}
    for base in reversed(cls.__mro__[:-1]):
        module = vars(sys.modules.get(base.__module__, object()))
        for name, written in {**_written_in_init(base), **inspect.get_annotations(base)}.items():
            with contextlib.suppress(Exception):
                one = type("One", (), {"__annotations__": {name: written}, "__module__": base.__module__})
                hint = typing.get_type_hints(one, module, {base.__name__: base}, include_extras=True)[name]
                hints[name] = hint if name in inspect.get_annotations(base) else _of_json(hint)
    return hints


def _of_json(hint: Any) -> Any:
    """An annotation as JSON values have it: a deque is an array, a defaultdict an object. Raises `TypeError` for one that JSON has not."""
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is collections.deque:
        hint = list[arguments[0]]  # type: ignore[valid-type]
    elif origin in (collections.defaultdict, collections.OrderedDict):
        hint = dict[arguments[0], arguments[1]]  # type: ignore[valid-type]
    msgspec.inspect.type_info(hint)
    return hint


def _written_in_init(cls: type) -> dict[str, str]:
    """The annotations of attributes in a class's own `__init__`, as text. Python evaluates none of them."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(vars(cls)["__init__"])))
    except (KeyError, OSError, TypeError, SyntaxError):
        return {}
    return {
        node.target.attr: ast.unparse(node.annotation)
        for node in ast.walk(tree)
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Attribute) and ast.unparse(node.target.value) == "self"
    }


def _type_of(value: Any) -> Any:
    if value is None:
        return Any
    kind = type(value)
    if isinstance(value, enum.Enum) or kind in _PLAIN:
        return kind
    if isinstance(value, collections.deque):
        return list
    return next((plain for plain in _PLAIN if issubclass(kind, plain)), kind)


def _class_attributes(cls: type) -> Iterator[str]:
    for base in reversed(cls.__mro__[:-1]):
        for name, value in vars(base).items():
            if not name.startswith("__") and not callable(value) and not hasattr(type(value), "__get__"):
                yield name


def _slots(cls: type) -> list[str]:
    found = []
    for base in cls.__mro__:
        slots = base.__dict__.get("__slots__", ())
        found += [slots] if isinstance(slots, str) else list(slots)
    return [name for name in found if not name.startswith("__")]


def _refuse_unknown(given: Any, made: Any, path: str) -> None:
    """Raise `StateError` for a field that is in the JSON but not in the object made from it. It would be lost silently."""
    if isinstance(given, list) and isinstance(made, list | tuple):
        for number, (one, other) in enumerate(zip(given, made, strict=False)):
            _refuse_unknown(one, other, f"{path}[{number}]")
    if not isinstance(given, dict):
        return
    if isinstance(made, Mapping):
        inside = {str(name): value for name, value in made.items()}
    else:
        names = _names_in_json(type(made))
        if names is None:
            return
        unknown = [name for name in given if name not in names]
        if unknown:
            known = ", ".join(names) or "none"
            raise StateError(
                f"{type(made).__qualname__} has no field {unknown[0]!r} (at {path}.{unknown[0]}); its fields: {known}"
            )
        inside = {name: getattr(made, python) for name, python in names.items()}
    for name, value in given.items():
        if name in inside:
            _refuse_unknown(value, inside[name], f"{path}.{name}")


def _names_in_json(cls: type) -> dict[str, str] | None:
    """Field names: JSON → Python. None for a class that does not declare its fields."""
    if issubclass(cls, msgspec.Struct):
        return dict(zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True))
    names = _field_names(cls)
    if names is None:
        return None
    found = {name: name for name in names}
    if hasattr(cls, "__pydantic_validator__"):
        fields = typing.cast(Any, cls).model_fields
        found.update({field.alias: name for name, field in fields.items() if field.alias})
    return found


__all__ = ["plain_fields", "plain_value", "state_from_json", "text_of"]
