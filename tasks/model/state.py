"""State classes: checks them, and creates a key's initial state.

A mutable class attribute (`stocks = {}`) belongs to the class: pickle leaves it out, and all keys would share it. So each state object gets
its own deep copy of every mutable class attribute: when it is created, and when it is unpickled and was stored before the attribute
existed. A mutable `ClassVar` would be shared by all keys and never stored, so it is refused.

A field that was added to the class since a state was stored gets the value that it has in a new state. So fields must be stored by name:
a `msgspec.Struct` is, and a class that can only be stored by position is refused.
"""

from __future__ import annotations

import collections
import copy
import copyreg
import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

import msgspec

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.inside_defaults import structs_in
from celery_partitions.model.restricted_pickle import Allowed, NotAllowed, load_and_list
from celery_partitions.model.versions import FIRST, versions_of

S = TypeVar("S")

_IMMUTABLE = (int, float, complex, str, bytes, tuple, frozenset, type(None))
_MUTABLE = (list, dict, set, bytearray, collections.deque)
#: Attributes that Python's ABCs and pydantic add to a class.
_MACHINERY = {"_abc_impl", "model_config"}
_NOT_DATA = (
    types.FunctionType,
    types.BuiltinFunctionType,
    types.MethodDescriptorType,
    types.WrapperDescriptorType,
    types.GetSetDescriptorType,
    types.MemberDescriptorType,
    staticmethod,
    classmethod,
    property,
    type,
)


class StateClass(Generic[S]):
    """A checked state class. Creates new objects, and completes unpickled ones."""

    __slots__ = ("_attributes", "_defaults", "_make", "_private", "cls", "is_versioned", "modules", "names", "slots", "version", "versions")

    def __init__(self, cls: type[S], modules: tuple[str, ...] = (), make: Callable[[], S] | None = None) -> None:
        """Raises `DeclarationError` if `cls` can't be created without arguments, can't be pickled, or is immutable.

        `modules`: what its pickles may name besides its own module's classes, as entries of PARTITIONS_STATE_MODULES. `make`: creates a
        key's initial state, if calling the class without arguments does not.
        """
        self._make = make or cls
        self.cls, self.modules, self.versions = cls, modules, versions_of(cls)
        #: The version of the states that this process writes, and whether records have one.
        self.version = self.versions.version
        self.is_versioned = self.version != FIRST
        if not isinstance(cls, type):
            raise DeclarationError(f"state= must be a class, not {cls!r}")
        if issubclass(cls, _IMMUTABLE):
            raise DeclarationError(
                f"state class {cls.__qualname__} is immutable: a state computation changes its state object in place. "
                "Use a class with an attribute for the value"
            )
        self._defaults = tuple(_mutable_attributes(cls).items())
        try:
            fresh = self._make()
        except Exception as error:
            raise DeclarationError(
                f"state class {cls.__qualname__} can't be created without arguments: {error}. "
                "A key's initial state is created by calling the class. Give its parameters defaults"
            ) from error
        if not isinstance(fresh, cls):
            raise DeclarationError(f"state class {cls.__qualname__} creates an object of another class, {type(fresh).__qualname__}")
        if self._defaults and not hasattr(fresh, "__dict__"):
            names = ", ".join(name for name, _ in self._defaults)
            raise DeclarationError(
                f"state class {cls.__qualname__} has __slots__, so it has no room for a key's own copy of {names}. "
                "Add it to __slots__ and set it in __init__"
            )
        self._attributes: frozenset[str] = frozenset()
        self.slots: tuple[str, ...] = ()
        self._private: frozenset[str] = frozenset()
        _store_by_name(cls)
        try:
            self.complete(fresh)
            #: (module, name) of everything that the pickle of a new state names.
            again, self.names = load_and_list(pickle.dumps(fresh, 5))
        except Exception as error:
            raise DeclarationError(
                f"state class {cls.__qualname__} can't be pickled: {error}. Define it at a module's top level, and "
                "keep open files, locks, connections and lambdas out of it"
            ) from error
        if type(again) is not type(fresh):
            raise DeclarationError(f"state class {cls.__qualname__} is unpickled as another class, {type(again)!r}")
        #: What a new state has after it was stored and read back.
        self._attributes = frozenset(getattr(again, "__dict__", ()))
        #: pydantic keeps these apart.
        self._private = frozenset(getattr(again, "__pydantic_private__", None) or ())
        self.slots = tuple(name for name in _slots_of(cls) if hasattr(again, name))

    def check_allowed(self, modules: tuple[str, ...]) -> None:
        """Raise `DeclarationError` if workers could not read back the states that they write. `modules`: PARTITIONS_STATE_MODULES.

        Called for each app on which the computation is registered, because the setting may differ.
        """
        allowed = Allowed(self.cls, (*modules, *self.modules))
        for module, name in self.names:
            try:
                allowed.find(module, name)
            except NotAllowed as error:
                raise DeclarationError(
                    f"state class {self.cls.__qualname__} could not be read back from Redis: {error}"
                ) from error

    def new(self) -> S:
        """The initial state of a key."""
        return self.complete(self._make())

    def complete(self, state: S) -> S:
        """Give `state` what it lacks: its own copy of each mutable class attribute, and the fields of a new state."""
        own = getattr(state, "__dict__", None)
        if own is not None:
            for name, value in self._defaults:
                if name not in own:
                    object.__setattr__(state, name, copy.deepcopy(value))
        missing = [] if own is None or self._attributes <= own.keys() else [name for name in self._attributes if name not in own]
        missing += [name for name in self.slots if not hasattr(state, name)]
        if missing:
            fresh = self._make()
            for name in missing:
                if hasattr(fresh, name):
                    object.__setattr__(state, name, getattr(fresh, name))
        if self._private and not self._private <= (private := getattr(state, "__pydantic_private__", None) or {}).keys():
            object.__setattr__(state, "__pydantic_private__", {**self._make().__pydantic_private__, **private})  # type: ignore[attr-defined]
        return state

    @property
    def completes(self) -> bool:
        """Whether `complete` ever does anything, so that a loader can skip the call."""
        return bool(self._defaults or self._attributes or self.slots)


def _store_by_name(cls: type) -> None:
    """Make pickles of this class name its fields. Raises `DeclarationError` for a class whose pickles can only list them."""
    for one in structs_in(cls):
        copyreg.pickle(one, _struct_by_name)
    if not issubclass(cls, msgspec.Struct) and getattr(getattr(cls, "__getstate__", None), "__name__", "") == "_dataclass_getstate":
        raise DeclarationError(
            f"state class {cls.__qualname__} is a frozen dataclass with slots, whose fields are stored by position: a field that is added "
            "later would get another one's value. Leave frozen=True out"
        )


class _ByName(msgspec.Struct, kw_only=True):
    """A Struct with keyword-only fields is pickled by name."""

    x: int = 0


_rebuild: Any = _ByName().__reduce__()[0]


def _struct_by_name(state: msgspec.Struct) -> tuple[Any, ...]:
    return _rebuild, (type(state), {name: getattr(state, name) for name in state.__struct_fields__ if hasattr(state, name)})


def _slots_of(cls: type) -> list[str]:
    """The names in `__slots__` of a class and its bases."""
    return [
        name
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, types.MemberDescriptorType) and name not in ("__dict__", "__weakref__")
    ]


def _mutable_attributes(cls: type) -> dict[str, Any]:
    found: dict[str, Any] = {}
    shared: set[str] = set()
    package = cls.__module__.partition(".")[0]
    for base in reversed(cls.__mro__):
        if base.__module__.partition(".")[0] in sys.stdlib_module_names:
            continue
        ours = base.__module__.partition(".")[0] == package
        hints = vars(base).get("__annotations__", {})
        for name, hint in hints.items():
            (shared.add if _is_class_var(hint) else shared.discard)(name)
        for name, value in vars(base).items():
            if ours and name in hints and name in shared and isinstance(value, _MUTABLE):
                raise DeclarationError(
                    f"state class {cls.__qualname__}: {name} is a ClassVar {type(value).__name__}, shared by all keys and "
                    "never stored. Remove ClassVar to give each key its own, or make a constant a tuple, frozenset or "
                    "MappingProxyType"
                )
            if name.startswith("__") or name in shared or name in _MACHINERY or _is_not_data(value):
                found.pop(name, None)
            else:
                found[name] = value
    return {name: value for name, value in found.items() if _is_mutable(cls, name, value)}


def _is_mutable(cls: type, name: str, value: object) -> bool:
    """Whether a deep copy is another object. An Enum member, a tuple of numbers and a logger are their own copies."""
    if isinstance(value, _IMMUTABLE) and not isinstance(value, tuple):
        return False
    try:
        return copy.deepcopy(value) is not value
    except Exception as error:
        raise DeclarationError(
            f"state class {cls.__qualname__}: each key gets its own copy of the class attribute {name}, but it can't be "
            f"copied: {error}. If it is not part of the state, annotate it with ClassVar"
        ) from error


def _is_not_data(value: object) -> bool:
    return isinstance(value, _NOT_DATA) or hasattr(type(value), "__get__") or callable(value)


def _is_class_var(hint: object) -> bool:
    if isinstance(hint, str):
        return hint.partition("[")[0].rpartition(".")[2] == "ClassVar"
    return hint is ClassVar or typing.get_origin(hint) is ClassVar
