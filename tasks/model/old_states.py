"""Reads a state of an older version as data, and makes an object of today's class of it.

The old class need not exist any more. Its objects, and those of other classes that are gone, become `OldObject`: a dict of their attributes.
Objects of classes that still exist stay objects.
"""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable, Iterable
from typing import Any

import msgspec

from celery_partitions.model.errors import MigrationFailed, StateError, describe
from celery_partitions.model.restricted_pickle import Allowed, NotAllowed
from celery_partitions.model.state import StateClass

#: How pydantic pickles an object.
_PYDANTIC = ("__dict__", "__pydantic_private__")


class OldObject(dict[str, Any]):
    """An object of a class that is read as data: attribute name → value. When it is stored again, it is a plain dict."""

    __slots__ = ()
    __hash__ = object.__hash__  # type: ignore[assignment]  # it may be a key of a dict

    def __new__(cls, *arguments: Any, **keywords: Any) -> OldObject:
        made = super().__new__(cls)
        dict.update(made, keywords)
        if arguments:  # of a class whose pickles contain a call, such as a namedtuple
            dict.update(made, __args__=arguments)
        return made

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        pass

    def __getnewargs__(self) -> tuple[Any, ...]:
        return ()

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return dict, (), None, None, iter(self.items())

    def __setstate__(self, stored: Any) -> None:
        """Called while unpickling, with what the class's `__getstate__` returned."""
        parts = stored if isinstance(stored, tuple) and len(stored) == 2 else (stored,)
        for part in parts:
            if isinstance(part, dict) and all(name in part for name in _PYDANTIC):
                for name in _PYDANTIC:
                    self.update(part[name] or {})
            elif isinstance(part, dict):
                self.update(part)
            elif part is not None:
                self["__state__"] = part


class AsData(Allowed):
    """What the pickles of an older version may name. The state class, and classes that are gone, are found as `OldObject`."""

    def __init__(self, cls: type, modules: Iterable[str] = ()) -> None:
        super().__init__(cls, modules)
        self._gone = {name.rpartition(".")[0] for name in self.formerly} | set(self._modules)

    def find(self, module: str, name: str) -> Any:
        try:
            found = super().find(module, name)
        except NotAllowed:
            if module in self._gone:
                return OldObject
            raise
        if found is self.cls:
            return OldObject
        return _REBUILDERS.get((module, name), found)


def _rebuilt(cls: Any, fields: Any) -> Any:
    """Replaces msgspec's `rebuild`, which creates a Struct."""
    if cls is OldObject:
        return OldObject(**fields)
    if not (isinstance(cls, type) and issubclass(cls, msgspec.Struct)):
        raise pickle.UnpicklingError("the pickle creates a msgspec.Struct, but the class is not a Struct")
    return cls(**fields)


_REBUILDERS = {("msgspec._utils", "rebuild"): _rebuilt}


def migrated(state_class: StateClass[Any], old: Any, version: int) -> Any:
    """An object of the class from the data of an older version. Raises `StateError`, and `MigrationFailed` if a migration raises."""
    versions, cls = state_class.versions, state_class.cls
    if not isinstance(old, OldObject):
        raise StateError(f"its content is a {type(old).__qualname__}, not an object of {cls.__qualname__}")
    attributes: Any = dict(old)
    for wanted in range(version + 1, versions.version + 1):
        migration = versions.migrations[wanted]
        try:
            attributes = migration(attributes)
        except Exception as error:
            raise MigrationFailed(f"the migration of {cls.__qualname__} to version {wanted} raised {describe(error)}") from error
        if not isinstance(attributes, dict) or not all(isinstance(name, str) for name in attributes):
            raise MigrationFailed(
                f"the migration of {cls.__qualname__} to version {wanted} must return a dict: attribute name → value, not "
                f"{type(attributes).__qualname__}"
            )
    return object_of(state_class, attributes)


def object_of(state_class: StateClass[Any], attributes: dict[str, Any]) -> Any:
    """A state object with these attributes; others have the values of a new state. Raises `MigrationFailed` for an attribute that the class
    does not have."""
    cls, made = state_class.cls, state_class.new()
    own = getattr(made, "__dict__", None)
    private = getattr(made, "__pydantic_private__", None) or {}
    restore = _own_setstate(cls)
    if restore is not None:
        restore(made, attributes)
        return state_class.complete(made)
    declared = _declared(cls)
    for name, value in attributes.items():
        if name in private:
            private[name] = value
            continue
        if (declared is not None and name not in declared and not hasattr(made, name)) or (own is None and not hasattr(cls, name)):
            raise MigrationFailed(
                f"the migrations of {cls.__qualname__} return the attribute {name!r}, which the class does not have. Remove it from the dict, or "
                "correct its name"
            )
        if isinstance(made, msgspec.Struct):
            setattr(made, name, value)
        elif own is None or name in state_class.slots:
            object.__setattr__(made, name, value)
        else:
            own[name] = value
    if hasattr(cls, "__pydantic_fields_set__"):
        made.__pydantic_fields_set__.update(name for name in attributes if declared is not None and name in declared)
    return state_class.complete(made)


def _own_setstate(cls: type) -> Callable[[Any, Any], None] | None:
    """The class's own `__setstate__`. None if it has none, or a library made it."""
    if hasattr(cls, "__pydantic_validator__") or hasattr(cls, "__attrs_attrs__"):
        return None
    return getattr(cls, "__setstate__", None)


def _declared(cls: type) -> frozenset[str] | None:
    """The names of the fields that a class declares; None for a plain class."""
    if issubclass(cls, msgspec.Struct):
        return frozenset(cls.__struct_fields__)
    if dataclasses.is_dataclass(cls):
        return frozenset(field.name for field in dataclasses.fields(cls))
    if hasattr(cls, "__attrs_attrs__"):
        return frozenset(field.name for field in cls.__attrs_attrs__)
    if hasattr(cls, "__pydantic_validator__"):
        return frozenset(cls.model_fields)  # type: ignore[attr-defined]
    return None
