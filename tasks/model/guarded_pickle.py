"""Read a pickle that nobody signed: a small pickle machine with closed lists of what it does.

Python's own unpickler is safe only for data from a trusted source. Even when it may name nothing but harmless classes,
BUILD sets attributes of whatever is on the stack, also of a class, and so changes the whole process. This machine, on
which `pickle_opcodes` runs what protocols 4 and 5 write, keeps four rules:

- It changes only objects that this very unpickling has made. A class, a function, a module, an Enum member or an object
  that a class shares between its callers is never changed.
- It calls only what `find` gave for a name. It calls a class only if the class pickles itself by such a call, and gives
  `__new__` arguments only if the class asks for them (`__getnewargs__`).
- It looks up methods (`__setstate__`, `append`) on the object's class, never on the object.
- It sets no attribute whose name begins and ends with two underscores, except through a class's own `__setstate__`.

It does not guard against waste of memory and time: only a signature keeps forged pickles out.
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
    """A pickle asks for something that no state needs and that could change the process."""


def _references_of_last(stack: list[Any]) -> int:
    return sys.getrefcount(stack[-1])


#: What that says of an object that nobody has but the stack.
_ONLY_OURS = _references_of_last([_NEW(object)])


class Machine:
    """Reads one pickle. `find`: (module, name) → what a pickle means by it; raises for what is not allowed.

    `plain`: the classes of plain data, and functions, which a pickle may call with any arguments.
    """

    __slots__ = ("at", "data", "find", "marks", "memo", "named", "plain", "shared", "stack")

    def __init__(self, data: bytes, find: Callable[[str, str], Any], plain: frozenset[Any]) -> None:
        self.data, self.at, self.find, self.plain = data, 0, find, plain
        self.stack: list[Any] = []
        self.marks: list[list[Any]] = []
        self.memo: list[Any] = []
        #: id → object. What `find` gave: only this may be called. It is kept here so that no other object gets its id.
        self.named: dict[int, Any] = {}
        #: id → object. What others have too, so that it must not be changed; all of `named` is in it.
        self.shared: dict[int, Any] = {}

    def take(self, count: int) -> bytes:
        """The next bytes. Nothing is allocated for more bytes than there are."""
        start = self.at
        self.at = end = start + count
        if count < 0 or end > len(self.data):
            raise Refused(f"the pickle is cut short: it has {len(self.data)} bytes and asks for {end}")
        return self.data[start:end]

    def number(self, count: int) -> int:
        return int.from_bytes(self.take(count), "little")

    def since_mark(self) -> list[Any]:
        """What was put on the stack since the last mark."""
        items, self.stack = self.stack, self.marks.pop()
        return items

    def target(self) -> Any:
        """What is on top of the stack, to be changed: only if this unpickling made it."""
        target = self.stack[-1]
        if id(target) in self.shared or isinstance(target, _NEVER_CHANGED):
            raise Refused(
                f"the pickle would change {name_of(target)}, which it did not make. Without a signing key a pickle may only "
                "change its own objects"
            )
        return target

    def remember_if_shared(self) -> None:
        """Called when what a call gave was put on the stack: if others have it too, it must not be changed."""
        if _references_of_last(self.stack) > _ONLY_OURS:
            made = self.stack[-1]
            self.shared[id(made)] = made

    def call(self, function: Any, arguments: Any) -> Any:
        if type(arguments) is not tuple:
            raise Refused("the pickle calls something with arguments that are no tuple")
        if id(function) not in self.named and not (isinstance(function, types.FunctionType) and function in self.plain):
            raise Refused(f"the pickle calls {name_of(function)}, which is not called by its name")
        if isinstance(function, type):
            self.check_call(function, arguments)
        return function(*arguments)

    def check_call(self, cls: type, arguments: tuple[Any, ...]) -> None:
        if isinstance(cls, enum.EnumMeta):
            if len(arguments) != 1:
                raise Refused(f"the pickle calls the Enum {name_of(cls)} with {len(arguments)} arguments")
        elif cls in self.plain:
            check = _CHECKED_ARGUMENTS.get(cls)
            if check is not None:
                check(self, arguments)
        elif issubclass(cls, type) or not _pickles_by_a_call(cls):
            raise Refused(
                f"the pickle calls {name_of(cls)}, and objects of that class are not pickled by a call: it has no __reduce__"
            )

    def make(self, cls: Any, arguments: Any, keywords: Any = None) -> Any:
        """What NEWOBJ does: `cls.__new__`, without `__init__`."""
        if id(cls) not in self.named or not isinstance(cls, type) or issubclass(cls, (type, enum.Enum)):
            raise Refused(f"the pickle makes an object of {name_of(cls)}, which is no class of data")
        if type(arguments) is not tuple or not (keywords is None or type(keywords) is dict):
            raise Refused(f"the pickle makes a {name_of(cls)} with arguments that are no tuple and dict")
        if keywords and not hasattr(cls, "__getnewargs_ex__"):
            raise Refused(f"the pickle makes a {name_of(cls)} with keywords, and the class has no __getnewargs_ex__")
        if arguments and not (hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__") or cls in self.plain):
            raise Refused(f"the pickle makes a {name_of(cls)} with arguments, and the class has no __getnewargs__")
        if cls.__new__ is _NEW:
            return _NEW(cls)
        return cls.__new__(cls, *arguments, **(keywords or {}))

    def build(self, target: Any, state: Any) -> None:
        """Give an object its attributes, as its class does, or into its `__dict__` and its slots."""
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
                raise Refused(f"the pickle gives a {name_of(cls)} a state that is no dict")
            attributes = target.__dict__
            if type(attributes) is not dict:
                raise Refused(f"the pickle sets attributes of a {name_of(cls)}, which has no dict for them")
            for name, value in state.items():
                if type(name) is not str or (name[:2] == "__" and name[-2:] == "__"):
                    raise Refused(f"the pickle sets the attribute {str(name)[:100]!r} of a {name_of(cls)}")
                attributes[sys.intern(name)] = value
        if slots:
            if type(slots) is not dict:
                raise Refused(f"the pickle gives a {name_of(cls)} slots that are no dict")
            for name, value in slots.items():
                if type(name) is not str or name[:2] == "__" or not _is_slot(cls, name):
                    raise Refused(f"the pickle sets {str(name)[:100]!r} of a {name_of(cls)}, which is no slot")
                setattr(target, name, value)


def _is_slot(cls: type, name: str) -> bool:
    """Whether the class keeps that attribute in a slot, or has nothing of that name, so that it goes into the `__dict__`."""
    found = getattr(cls, name, _MARK)
    return found is _MARK or isinstance(found, types.MemberDescriptorType)


def _pickles_by_a_call(cls: Any) -> bool:
    """Whether `cls(...)` is how a pickle makes an object of it; else a pickle uses `__new__` alone."""
    return cls.__reduce_ex__ is not _REDUCE_EX or cls.__reduce__ is not _REDUCE or cls in copyreg.dispatch_table


def name_of(value: Any) -> str:
    named = value if isinstance(value, type) else type(value)
    name = f"{named.__module__}.{named.__qualname__}"
    return name if isinstance(value, type) else f"an object of {name}"


def _check_factory(machine: Machine, arguments: tuple[Any, ...]) -> None:
    """The factory of a defaultdict is called later, by whoever reads the dict."""
    if arguments and arguments[0] is not None and id(arguments[0]) not in machine.named:
        raise Refused(f"the pickle gives a defaultdict {name_of(arguments[0])} as its factory")


def _check_no_size(machine: Machine, arguments: tuple[Any, ...]) -> None:
    """`bytes(10**12)` would allocate that much."""
    if arguments and isinstance(arguments[0], int):
        raise Refused("the pickle makes bytes of a given size, without the bytes")


_CHECKED_ARGUMENTS: dict[type, Callable[[Machine, tuple[Any, ...]], None]] = {
    collections.defaultdict: _check_factory,
    bytes: _check_no_size,
    bytearray: _check_no_size,
}
