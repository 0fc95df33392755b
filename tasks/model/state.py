"""State objects: how a key's first one is made, and what a state class must be.

A mutable class attribute (`stocks = {}`) belongs to the class: plain pickle leaves it out and every key would share
it. So each state object is given a deep copy of its own of every mutable class attribute, when it is made, and again
when it is unpickled from a time before the attribute existed. A mutable `ClassVar` would be
shared by all keys and never stored, the contrary of a state, so it is refused.
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
#: What Python's ABCs and pydantic put on a class.
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
    """A state class that was looked over: makes new objects, and completes unpickled ones."""

    __slots__ = ("_defaults", "_make", "cls", "modules", "names")

    def __init__(self, cls: type[S], modules: tuple[str, ...] = (), make: Callable[[], S] | None = None) -> None:
        """Raises `DeclarationError` when `cls` can't be made with no arguments, pickled, or changed.

        `modules`: what its pickles may name beside its own module's classes, as entries of PARTITIONS_STATE_MODULES. `make`: gives a key's
        first state, of a class that is made in another way than by calling it with no arguments.
        """
        self._make = make or cls
        self.cls, self.modules = cls, modules
        if not isinstance(cls, type):
            raise DeclarationError(f"state= wants a class, not {cls!r}")
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
                f"state class {cls.__qualname__} can't be made with no arguments: {error}. "
                "A key's first state is made by calling the class; give its parameters defaults"
            ) from error
        if not isinstance(fresh, cls):
            raise DeclarationError(f"state class {cls.__qualname__} makes a {type(fresh).__qualname__}, not itself")
        if self._defaults and not hasattr(fresh, "__dict__"):
            names = ", ".join(name for name, _ in self._defaults)
            raise DeclarationError(
                f"state class {cls.__qualname__} has __slots__, and so no room for a key's own copy of {names}. "
                "Name it in __slots__ and set it in __init__"
            )
        try:
            self.complete(fresh)
            #: (module, name) of all that the pickle of a fresh state names.
            again, self.names = load_and_list(pickle.dumps(fresh, 5))
        except Exception as error:
            raise DeclarationError(
                f"state class {cls.__qualname__} can't be pickled: {error}. Define it at a module's top level, and "
                "keep open files, locks, connections and lambdas out of it"
            ) from error
        if type(again) is not type(fresh):
            raise DeclarationError(f"state class {cls.__qualname__} comes back from pickle as {type(again)!r}")

    def check_allowed(self, modules: tuple[str, ...]) -> None:
        """Raise `DeclarationError` when no worker could read a state back that it wrote. `modules`: PARTITIONS_STATE_MODULES.

        Called for each app that knows the computation: what is allowed is a setting.
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
        """The zero state of a key seen for the first time."""
        return self.complete(self._make())

    def complete(self, state: S) -> S:
        """Give `state` its own copy of each mutable class attribute that it does not have yet."""
        if self._defaults:
            own = getattr(state, "__dict__", None)
            if own is not None:
                for name, value in self._defaults:
                    if name not in own:
                        object.__setattr__(state, name, copy.deepcopy(value))
        return state

    @property
    def completes(self) -> bool:
        """Whether `complete` ever does anything: lets a loader skip the call."""
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
                    "never stored. Without ClassVar each key gets its own; a constant can be a tuple, frozenset or "
                    "MappingProxyType"
                )
            if name.startswith("__") or name in shared or name in _MACHINERY or _is_not_data(value):
                found.pop(name, None)
            else:
                found[name] = value
    return {name: value for name, value in found.items() if _is_mutable(cls, name, value)}


def _is_mutable(cls: type, name: str, value: object) -> bool:
    """Whether a copy is another object: an Enum member, a tuple of numbers, a logger is its own copy."""
    if isinstance(value, _IMMUTABLE) and not isinstance(value, tuple):
        return False
    try:
        return copy.deepcopy(value) is not value
    except Exception as error:
        raise DeclarationError(
            f"state class {cls.__qualname__}: each key gets its own copy of the class attribute {name}, and it can't be "
            f"copied: {error}. Annotate it ClassVar if it is no state"
        ) from error


def _is_not_data(value: object) -> bool:
    return isinstance(value, _NOT_DATA) or hasattr(type(value), "__get__") or callable(value)


def _is_class_var(hint: object) -> bool:
    if isinstance(hint, str):
        return hint.partition("[")[0].rpartition(".")[2] == "ClassVar"
    return hint is ClassVar or typing.get_origin(hint) is ClassVar
