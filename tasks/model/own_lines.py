"""Names of own lines. The messages of one computation for one key wait in an own line, while the other computations of the key go on.

A computation declared with `holds="computation"` has one for each key where a message of it failed. A line is parked and has a mailbox, as a
key does, in the key's partition. Its name stands where a key's does. Its messages are older than all in the mailbox of the key itself.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

#: Names of computations are printable, so they do not contain it.
SEPARATOR = "\x1f"


def own_line(key: str, computation: str) -> str:
    """The own line of a computation for a key."""
    return f"{key}{SEPARATOR}{computation}"


def line_in(own_lines: Collection[str], key: str, names: Iterable[str]) -> str | None:
    """The first of a computation's own lines for a key in which messages wait. `names`: `Computation.lines`."""
    return next((line for name in names if (line := own_line(key, name)) in own_lines), None)


def is_own_line(name: str) -> bool:
    """Whether a parked key is an own line. A key that contains the separator counts as one: its messages then wait as in a line."""
    return SEPARATOR in name


def key_and_computation(name: str) -> tuple[str, str | None]:
    """The key and the computation of an own line. For any other key: the key, and None."""
    key, found, computation = name.rpartition(SEPARATOR)
    return (key, computation) if found else (name, None)
