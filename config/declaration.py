"""Declares one setting: a field of the dataclass `Settings` with facts about it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")

#: Which processes read a setting. `workers` are also the processes of sources and sinks.
UsedBy = Literal["all", "producers", "workers", "dashboard", "wallaroo"]


@dataclass(frozen=True, slots=True)
class Declaration:
    """The facts about a setting other than its name, type and default."""

    parse: Callable[[str], Any]
    help: str
    used_by: UsedBy
    #: The environment variable, if it is not `PARTITIONS_` and the field's name.
    variable: str | None
    secret: bool


def setting(
    default: T,
    parse: Callable[[str], Any],
    *,
    help: str,
    used_by: UsedBy = "all",
    variable: str | None = None,
    secret: bool = False,
) -> T:
    """Declare a setting. It returns a dataclass field, but has the default's type for mypy."""
    declaration = Declaration(parse, help, used_by, variable, secret)
    return field(default=default, repr=not secret, metadata={"setting": declaration})


@dataclass(frozen=True, slots=True)
class Setting:
    """One row of the table of settings."""

    field: str
    #: The environment variable.
    variable: str
    #: The name in the configuration of a Celery app; None for REDIS_URL, which is `broker_url` there.
    option: str | None
    default: Any
    parse: Callable[[str], Any]
    help: str
    used_by: UsedBy
    secret: bool
