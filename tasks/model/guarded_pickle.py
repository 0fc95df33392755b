"""Reads unsigned pickles: a small pickle machine that allows only listed operations.

Python's own unpickler is safe only for trusted data. Even if a pickle may name only harmless classes, the opcode BUILD sets attributes of
anything on the stack, even of a class, and so can change the whole process. `pickle_opcodes` runs the opcodes of protocols 4 and 5 on this
machine, which keeps four rules:

- It changes only objects that the same unpickling created. It never changes a class, a function, a module, an Enum member or an object
  that a class shares between its callers.
- It calls only what `find` returned for a name. It calls a class only if the class pickles itself by such a call. It passes arguments to
  `__new__` only if the class has `__getnewargs__`.
- It looks up methods (`__setstate__`, `append`) on the object's class, never on the object.
- It sets no attribute whose name begins and ends with two underscores, except through a class's own `__setstate__`.

It does not prevent a pickle from wasting memory or time. Only a signature keeps forged pickles out.
"""

from __future__ import annotations

import collections
import copyreg
import enum
import pickle
import sys
import types
from collections.abc import Callable
from typing import Any

_NEVER_CHANGED = (type, types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType)
_NEW, _REDUCE, _REDUCE_EX = object.__new__, object.__reduce__, object.__reduce_ex__
_MARK = object()


class Refused(pickle.UnpicklingError):
    """The pickle does something that no state needs and that could change the process."""


def _references_of_last(stack: list[Any]) -> int:
    return sys.getrefcount(stack[-1])


#: The reference count of an object that only the stack refers to.
_ONLY_OURS = _references_of_last([_NEW(object)])


class Machine:
    """Reads one pickle. `find`: (module, name) → the object; raises if it is not allowed.

    `plain`: classes of plain data and functions that a pickle may call with any arguments.
    """

    __slots__ = ("at", "data", "find", "marks", "memo", "named", "plain", "shared", "stack")

    def __init__(self, data: bytes, find: Callable[[str, str], Any], plain: frozenset[Any]) -> None:
        self.data, self.at, self.find, self.plain = data, 0, find, plain
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        #: id → object. What `find` returned; only this may be called. The reference keeps the id from being reused.
        self.named: dict[int, Any] = {}
        #: id → object. Objects that others refer to as well, so they must not be changed. Includes all of `named`.
        self.shared: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        """The next bytes. Never allocates more than the pickle has."""
        start = self.at
        self.at = end = start + count
        if count < 0 or end > len(self.data):
            raise Refused(f"the pickle is truncated: it has {len(self.data)} bytes but refers to byte {end}")
        return self.data[start:end]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def since_mark(self) -> list[Any]:
        """The objects on the stack since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def target(self) -> Any:
        """The object on top of the stack, to be changed. Raises `Refused` unless this unpickling created it."""
        target = self.stack[-1]
        if id(target) in self.shared or isinstance(target, _NEVER_CHANGED):
            raise Refused(
                f"the pickle would change {name_of(target)}, which it did not create. Without a signing key, a pickle may change "
                "only its own objects"
            )
        return target

    def remember_if_shared(self) -> None:
        """Protect the result of a call, now on top of the stack, from changes if others refer to it as well."""
        if _references_of_last(self.stack) > _ONLY_OURS:
            made = self.stack[-1]
            self.shared[id(made)] = made

    def call(self, function: Any, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise Refused("the pickle calls something with arguments that are not a tuple")
        if id(function) not in self.named and not (isinstance(function, types.FunctionType) and function in self.plain):
            raise Refused(f"the pickle calls {name_of(function)}, which it did not look up by name")
        if isinstance(function, type):
            self.check_call(function, arguments)
        elif arguments:  # a replacement for one of copyreg's functions, which are called with the class
            self.check_size(arguments[0], arguments[1:])
        return function(*arguments)

    def check_call(self, cls: type, arguments: tuple[Any, ...]) -> None:
        if isinstance(cls, enum.EnumMeta):
            if len(arguments) != 1:
                raise Refused(f"the pickle calls the Enum {name_of(cls)} with {len(arguments)} arguments")
        elif cls in self.plain:
            if cls is collections.defaultdict:
                _check_factory(self, arguments)
            self.check_size(cls, arguments)
        elif issubclass(cls, type) or not _pickles_by_a_call(cls):
            raise Refused(
                f"the pickle calls {name_of(cls)}, but objects of that class are not pickled by a call: it has no __reduce__"
            )

    def check_size(self, cls: Any, arguments: tuple[Any, ...]) -> None:
        """Refuse arguments from which plain data, or a class that is made like it, becomes far larger than the pickle: `bytes(10**12)`,
        `list(range(10**12))`."""
        if cls is range or not isinstance(cls, type) or not any(cls.__new__ is base.__new__ for base in cls.__mro__ if base in self.plain):
            return
        if any(type(each) is range and each[len(self.data) :] for each in arguments):
            raise Refused(f"the pickle creates a {name_of(cls)} from a range, without its content")
        if issubclass(cls, (bytes, bytearray)) and any(isinstance(each, int) for each in arguments):
            raise Refused("the pickle creates bytes by their size, without their content")

    def make(self, cls: Any, arguments: Any, keywords: Any = None) -> Any:
        """The opcode NEWOBJ: call `cls.__new__`, without `__init__`."""
        if id(cls) not in self.named or not isinstance(cls, type) or issubclass(cls, (type, enum.Enum)):
            raise Refused(f"the pickle creates an object of {name_of(cls)}, which is not a data class")
        if type(arguments) is not tuple or not (keywords is None or type(keywords) is dict):
            raise Refused(f"the pickle creates a {name_of(cls)} with arguments that are not a tuple and a dict")
        if keywords and not hasattr(cls, "__getnewargs_ex__"):
            raise Refused(f"the pickle creates a {name_of(cls)} with keywords, but the class has no __getnewargs_ex__")
        if arguments and not (hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__") or cls in self.plain):
            raise Refused(f"the pickle creates a {name_of(cls)} with arguments, but the class has no __getnewargs__")
        if cls.__new__ is _NEW:
            return _NEW(cls)
        self.check_size(cls, arguments)
        return cls.__new__(cls, *arguments, **(keywords or {}))

    def build(self, target: Any, state: Any) -> None:
        """Set an object's attributes: by its class's `__setstate__`, or in its `__dict__` and slots."""
        cls = type(target)
        setstate = getattr(cls, "__setstate__", None)
        if setstate is not None:
            setstate(target, state)
            return
        slots = None
        if type(state) is tuple and len(state) == 2:
            state, slots = state
        if state:
            if type(state) is not dict:
                raise Refused(f"the pickle gives a {name_of(cls)} a state that is not a dict")
            attributes = target.__dict__
            if type(attributes) is not dict:
                raise Refused(f"the pickle sets attributes of a {name_of(cls)}, which has no __dict__")
            for name, value in state.items():
                if type(name) is not str or (name[:2] == "__" and name[-2:] == "__"):
                    raise Refused(f"the pickle sets the attribute {str(name)[:100]!r} of a {name_of(cls)}")
                attributes[sys.intern(name)] = value
        if slots:
            if type(slots) is not dict:
                raise Refused(f"the pickle gives a {name_of(cls)} slots that are not a dict")
            for name, value in slots.items():
                if type(name) is not str or name[:2] == "__" or not _is_slot(cls, name):
                    raise Refused(f"the pickle sets {str(name)[:100]!r} of a {name_of(cls)}, which is not a slot")
                setattr(target, name, value)


def _is_slot(cls: type, name: str) -> bool:
    """Whether the class has a slot with that name, or nothing with that name, so that the value goes into the `__dict__`."""
    found = getattr(cls, name, _MARK)
    return found is _MARK or isinstance(found, types.MemberDescriptorType)


def _pickles_by_a_call(cls: Any) -> bool:
    """Whether pickles create objects of the class by calling it. Otherwise they use only `__new__`."""
    return cls.__reduce_ex__ is not _REDUCE_EX or cls.__reduce__ is not _REDUCE or cls in copyreg.dispatch_table


def name_of(value: Any) -> str:
    named = value if isinstance(value, type) else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    return name if isinstance(value, type) else f"an object of {name}"


def _check_factory(machine: Machine, arguments: tuple[Any, ...]) -> None:
    """Check the factory of a defaultdict, because reading the dict calls it later."""
    if arguments and arguments[0] is not None and id(arguments[0]) not in machine.named:
        raise Refused(f"the pickle gives a defaultdict {name_of(arguments[0])} as its factory")
