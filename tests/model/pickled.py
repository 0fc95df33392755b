"""A module of states, and what else may stand in one: for `test_unpickling`."""

from __future__ import annotations

import enum
import os
import shutil
from datetime import datetime
from typing import Any, ClassVar

import msgspec

__all__ = ["State", "os", "shutil"]

#: What was called that should not have been.
called: list[str] = []


class Unit(enum.Enum):
    EUR = "eur"


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class State:
    """The state class. Its attributes are whatever a test gives it."""

    value: Any = None
    #: Reached by a dotted name, if anything is.
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
