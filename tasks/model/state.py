"""State classes: checks them, and creates a key's initial state.

A mutable class attribute (`stocks = {}`) belongs to the class: pickle leaves it out, and all keys would share it. So each state object gets
its own deep copy of every mutable class attribute: when it is created, and when it is unpickled and was stored before the attribute
existed. A mutable `ClassVar` would be shared by all keys and never stored, so it is refused.
"""

from __future__ import annotations

import collections
import copy
import pickle
import sys
import types
import typing
from collections.abc import Callable
from typing import Any, ClassVar, Generic, TypeVar

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.restricted_pickle import Allowed, NotAllowed, load_and_list

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

    __slots__ = ("_defaults", "_make", "cls", "modules", "names")

    def __init__(self, cls: type[S], modules: tuple[str, ...] = (), make: Callable[[], S] | None = None) -> None:
        """Raises `DeclarationError` if `cls` can't be created without arguments, can't be pickled, or is immutable.

        `modules`: what its pickles may name besides its own module's classes, as entries of PARTITIONS_STATE_MODULES. `make`: creates a
        key's initial state, if calling the class without arguments does not.
        """
        self._make = make or cls
        self.cls, self.modules = cls, modules
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
        """Give `state` its own copy of each mutable class attribute that it lacks."""
        if self._defaults:
            own = getattr(state, "__dict__", None)
            if own is not None:
                for name, value in self._defaults:
                    if name not in own:
                        object.__setattr__(state, name, copy.deepcopy(value))
        return state

    @property
    def completes(self) -> bool:
        """Whether `complete` ever does anything, so that a loader can skip the call."""
        return bool(self._defaults)


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
