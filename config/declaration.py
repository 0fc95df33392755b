"""Declares one setting: a field of the dataclass `Settings` with the facts about it that its type and default do not tell."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

T = TypeVar("T")

#: Which processes read a setting. `workers` are also the processes of sources and sinks.
UsedBy = Literal["all", "producers", "workers", "dashboard", "wallaroo"]


def setting(
    default: T,
    parse: Callable[[str], Any],
    *,
    help: str,
    used_by: UsedBy = "all",
    variable: str | None = None,
    secret: bool = False,
) -> T:
    """Declare a setting. It returns a dataclass field, but has the default's type for mypy.

    `variable`: the environment variable, if it is not `PARTITIONS_` and the field's name.
    """
    facts = {"variable": variable, "parse": parse, "help": help, "used_by": used_by, "secret": secret}
    return field(default=default, repr=not secret, metadata=facts)


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
