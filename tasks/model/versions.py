"""Versions of state classes: the decorators `state` and `migrates`, and what they note about a class.

A class without `@state` has version 1. Only a higher version is stored with a state, in the header of its record, so all other states
cost nothing. States that were stored before the class had `@state` have version 1, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar, cast

from celery_partitions.model.errors import DeclarationError

#: Attributes of an older state, by name.
Attributes = dict[str, Any]
Migration = Callable[[Attributes], Attributes]

C = TypeVar("C", bound=type)
M = TypeVar("M", bound=Migration)

#: The version of a state whose record has none.
FIRST = 1
#: No class needs more. Higher numbers in a header are refused.
MAX_VERSION = 1_000_000
#: What a partition's `meta` says, instead of the highest version of a computation's states, once they are those of another name.
RENAMED_TO = "renamed to "
#: The attribute of a class that holds its `Versions`.
_NOTED_IN = "__partitions_state__"
#: Former name → (module, name) of the class that has it now.
_renamed: dict[str, tuple[str, str]] = {}


class Versions:
    """What is known about the versions of one class. Shared by the classes that `slots=True` makes of it."""

    def __init__(self, version: int, formerly: tuple[str, ...]) -> None:
        self.version, self.formerly = version, formerly
        #: Version → the function that makes it from the version before.
        self.migrations: dict[int, Migration] = {}

    @property
    def oldest(self) -> int:
        """The oldest version that can be read."""
        oldest = self.version
        while oldest in self.migrations:
            oldest -= 1
        return oldest

    def check(self, cls: type) -> None:
        """Raise `DeclarationError` if a migration can never run. Call it when all modules are imported."""
        unused = [version for version in self.migrations if version <= self.oldest]
        if unused:
            raise DeclarationError(
                f"state class {cls.__qualname__} has a migration to version {min(unused)}, but none to version {self.oldest}, so older states "
                f"cannot be read. Add @migrates({cls.__qualname__}, to_version={self.oldest}), or remove the older migrations"
            )


_NONE = Versions(FIRST, ())


def state(*, version: int = FIRST, formerly: str | Iterable[str] = ()) -> Callable[[C], C]:
    """Give a state class a version, or the names that it had.

    `version`: increase it when states stored earlier do not fit the class any more, and write a migration (`migrates`). A field that was
    added with a default needs no new version. `formerly`: the names (`module.Class`) under which the class was stored earlier; also for a
    class that is only part of a state. Raises `DeclarationError`.
    """
    names = (formerly,) if isinstance(formerly, str) else tuple(formerly)
    if isinstance(version, bool) or not isinstance(version, int) or not FIRST <= version <= MAX_VERSION:
        raise DeclarationError(f"@state: version must be an integer from {FIRST} to {MAX_VERSION:,}, not {version!r}")
    for name in names:
        if not isinstance(name, str) or not all(name.partition(".")[::2]):
            raise DeclarationError(f"@state: formerly must be a class's old name with its module, such as 'shop.old.Account', not {name!r}")

    def note(cls: C) -> C:
        if not isinstance(cls, type):
            raise DeclarationError(f"@state belongs on a class, not on {cls!r}")
        if version > FIRST and issubclass(cls, dict | list | set):
            raise DeclarationError(
                f"state class {cls.__qualname__} is a {cls.__mro__[-2].__name__}, and cannot have versions: a migration gets attributes. Keep "
                "the content in an attribute"
            )
        here = (cls.__module__, cls.__qualname__)
        for name in names:
            other = _renamed.setdefault(name, here)
            if other != here and not (other[1] == here[1] and "__main__" in (other[0], here[0])):  # else a script that was imported, too
                raise DeclarationError(f"@state: both {'.'.join(other)} and {'.'.join(here)} were formerly {name!r}. Only one can be")
        setattr(cls, _NOTED_IN, Versions(version, names))
        return cls

    return note


def migrates(cls: type, *, to_version: int) -> Callable[[M], M]:
    """Declare a function that makes the attributes of version `to_version` from those of the version before.

    It gets a dict: attribute name → value, as the state was stored, and returns a dict. A class attribute that the object never
    changed is not in it. It runs in workers, the command line and the dashboard each time an older state is read, so it must depend on
    nothing else. If it raises, the message of that state counts as failed. Raises `DeclarationError`.
    """
    versions = versions_of(cls)
    if versions.version == FIRST:
        raise DeclarationError(f"@migrates: {getattr(cls, '__qualname__', cls)} has no version. Put @state(version=…) on the class")
    if isinstance(to_version, bool) or not isinstance(to_version, int) or not FIRST < to_version <= versions.version:
        raise DeclarationError(
            f"@migrates: to_version must be from 2 to {versions.version}, the version of {cls.__qualname__}, not {to_version!r}"
        )

    def note(function: M) -> M:
        before = versions.migrations.setdefault(to_version, function)
        if _place(before) != _place(function):
            raise DeclarationError(f"@migrates: {cls.__qualname__} has two migrations to version {to_version}: {_place(before)} and {_place(function)}")
        versions.migrations[to_version] = function  # its module may have been imported again
        return function

    return note


def versions_of(cls: type) -> Versions:
    """The versions of a class. A subclass does not inherit them."""
    return cast(Versions, vars(cls).get(_NOTED_IN, _NONE)) if isinstance(cls, type) else _NONE


def renamed(module: str, name: str) -> tuple[str, str] | None:
    """The present (module, name) of a class that was stored under another name; None if no class says so."""
    return _renamed.get(f"{module}.{name}")


def _place(function: Any) -> str:
    return f"{getattr(function, '__module__', '')}.{getattr(function, '__qualname__', type(function).__qualname__)}"
