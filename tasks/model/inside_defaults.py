"""Gives the objects inside a state the fields that their classes got after the state was stored.

A default that is a class attribute needs nothing. This is for the others: default factories, slots, attrs, pydantic, `msgspec.Struct`, and
what a plain class sets in its `__init__`.
"""

from __future__ import annotations

import dataclasses
import typing
from collections import deque
from collections.abc import Callable, Iterable, Set
from contextlib import suppress
from typing import Any

import msgspec

from celery_partitions.model.init_defaults import defaults_in_init
from celery_partitions.model.pydantic_types import is_pydantic

Defaults = dict[str, Callable[[], Any]]

_CONTAINERS = (list, tuple, set, frozenset, deque)
_MAY_HOLD = (dict, *_CONTAINERS, msgspec.Struct)


def defaults_of(cls: type) -> Defaults:
    """The fields of a class that have a default, and how to make it."""
    known: Any = cls
    if is_pydantic(cls) and hasattr(cls, "model_fields"):
        return {
            name: lambda field=field: field.get_default(call_default_factory=True, validated_data={})  # type: ignore[misc]
            for name, field in known.__pydantic_fields__.items()
            if not field.is_required()
        }
    if issubclass(cls, msgspec.Struct):
        return {
            one.name: _maker(one.default, one.default_factory, msgspec.NODEFAULT)
            for one in msgspec.structs.fields(cls)
            if not one.required
        }
    if dataclasses.is_dataclass(cls):
        missing = dataclasses.MISSING
        return {
            one.name: _maker(one.default, one.default_factory, missing)
            for one in dataclasses.fields(cls)
            if one.default is not missing or one.default_factory is not missing
        }
    if hasattr(cls, "__attrs_attrs__"):
        return {one.name: made for one in known.__attrs_attrs__ if (made := _of_attrs(one.default)) is not None}
    return defaults_in_init(cls)


def _maker(default: Any, factory: Any, missing: object) -> Callable[[], Any]:
    return factory if factory is not missing else lambda: default


def _of_attrs(default: Any) -> Callable[[], Any] | None:
    """attrs' default: a value, a `Factory`, or nothing."""
    if type(default).__name__ == "Factory":
        return None if default.takes_self else default.factory
    return None if getattr(default, "name", "") == "NOTHING" else lambda: default


def structs_in(cls: Any, seen: set[Any] | None = None) -> set[type[msgspec.Struct]]:
    """The `msgspec.Struct` classes in the annotations of a class, and in theirs."""
    seen = set() if seen is None else seen
    found: set[type[msgspec.Struct]] = set()
    if isinstance(cls, type) and not typing.get_args(cls):
        if cls in seen or cls.__module__ == "builtins":
            return found
        seen.add(cls)
        if issubclass(cls, msgspec.Struct):
            found.add(cls)
        try:
            inner: Iterable[Any] = typing.get_type_hints(cls).values()
        except Exception:  # annotations for type checkers only
            return found
    else:
        inner = typing.get_args(cls)
    return found.union(*(structs_in(one, seen) for one in inner))


class InsideDefaults:
    """One per state class. `classes`: those that its states contain. More may be added later. `cls` itself is completed elsewhere."""

    def __init__(self, cls: type, classes: Set[type]) -> None:
        self._cls, self._classes, self._count = cls, classes, -1
        self._defaults: dict[type, Defaults] = {}

    def complete(self, state: Any) -> None:
        """Add missing fields to the objects inside `state`."""
        if len(self._classes) != self._count:
            self._count = len(self._classes)
            self._defaults = {cls: made for cls in list(self._classes) if cls is not self._cls and (made := defaults_of(cls))}
        if self._defaults:
            self._walk(state)

    def _walk(self, state: Any) -> None:
        seen: set[int] = set()
        waiting = [state]
        while waiting:
            one = waiting.pop()
            if id(one) in seen:
                continue
            seen.add(id(one))
            cls = type(one)
            defaults = self._defaults.get(cls)
            if defaults is not None:
                for name, make in defaults.items():
                    if not hasattr(one, name):
                        with suppress(Exception):  # an object without a new field is better than an unreadable state
                            object.__setattr__(one, name, make())
            waiting += filter(_may_hold, _inside(one, cls))


def _may_hold(value: Any) -> bool:
    """Whether there may be objects in a value. Most values are numbers and texts."""
    return isinstance(value, _MAY_HOLD) or hasattr(value, "__dict__") or hasattr(type(value), "__slots__")


def _inside(one: Any, cls: type) -> Iterable[Any]:
    if isinstance(one, dict):
        return [*one.keys(), *one.values()]
    if isinstance(one, _CONTAINERS):
        return one
    if isinstance(one, type):
        return ()
    found = list(getattr(one, "__dict__", {}).values())
    names = getattr(cls, "__struct_fields__", None) or [name for base in cls.__mro__ for name in _names(base.__dict__.get("__slots__", ()))]
    return found + [getattr(one, name) for name in names if name not in ("__dict__", "__weakref__") and hasattr(one, name)]


def _names(slots: Any) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots
