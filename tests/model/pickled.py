"""A module with state classes, and with everything else that such a module may contain."""

from __future__ import annotations

import enum
import os
import shutil
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, ClassVar, NamedTuple

import msgspec

__all__ = ["State", "os", "shutil"]

#: Calls that should not have happened.
called: list[str] = []


class Unit(enum.Enum):
    EUR = "eur"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class State:
    """The state class. Each test sets its own attributes."""

    value: Any = None
    #: Would be reached by a dotted name.
    system: ClassVar[Any] = os

    class Inner:
        pass

    def method(self) -> None:
        called.append("method")


class Keywords(msgspec.Struct, kw_only=True):
    price: float = 0.0
    seen: datetime | None = None


class Other:
    """Another class of the module."""


def function(*args: Any) -> State:
    called.append("function")
    return State()


class Rebuilt:
    """A state that names a function of its own module."""

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, ()


def rebuild() -> Rebuilt:
    return Rebuilt()


class Shared:
    """All callers get the same object, as with a class for settings or a pool."""

    limit = 5
    only: ClassVar[Any] = None

    def __new__(cls) -> Any:
        if cls.only is None:
            cls.only = super().__new__(cls)
        return cls.only


class Sender:
    """A pickle must never call this class, because the call has an effect."""

    def __init__(self, *args: Any) -> None:
        called.append("Sender")


class Callable:
    """An object that can be called."""

    def __call__(self, *args: Any) -> Any:
        called.append("Callable")
        return self


class Collecting:
    """A class with the methods that pickle opcodes call."""

    def append(self, item: Any = None) -> None:
        called.append("append")

    def extend(self, items: Any = None) -> None:
        called.append("extend")

    def add(self, item: Any = None) -> None:
        called.append("add")


class Price(NamedTuple):
    amount: float
    unit: Unit


@dataclass
class Row:
    symbol: str = "A"
    prices: list[Price] = field(default_factory=list)


@dataclass(slots=True)
class Slotted:
    symbol: str = "A"
    row: Row | None = None


class PlainSlots:
    __slots__ = ("a", "b")


class Rows(list[Any]):
    """A list with attributes."""


class Book(dict[str, Any]):
    """A dict with attributes."""


class Failure(Exception):
    """An exception with attributes."""


class Positional(msgspec.Struct):
    price: float = 0.0
    rows: list[Row] = []
