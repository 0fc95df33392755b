"""Names of task lines. Messages of a task that is unknown to the worker have no known key, so they wait in one line per task.

A line is parked and has a mailbox, as a key does, in the partition where the messages arrived. Its name stands where a key's does.
"""

from __future__ import annotations

import re
from hashlib import sha1

#: A longer task name is shortened, because a key may have 4 kB.
MAX_NAME_CHARACTERS = 200

_LINE = re.compile(r"unknown task .* @([0-9]+|ingress)", re.DOTALL)


def line_of_task(task: str, partition: str) -> str:
    """The line of a task's messages in a partition (its number as text, or `ingress`)."""
    name = task.encode("utf-8", "backslashreplace").decode()
    if len(name) > MAX_NAME_CHARACTERS:
        name = f"{name[:MAX_NAME_CHARACTERS]}…{sha1(name.encode(), usedforsecurity=False).hexdigest()[:8]}"
    return f"unknown task {name} @{partition}"


def moved_line(line: str, partition: str) -> str:
    """The same line in another partition."""
    return f"{line.rpartition('@')[0]}@{partition}"


def partition_of_line(key: str) -> str | None:
    """The partition of a line; None if this is not a line's name."""
    found = _LINE.fullmatch(key)
    return None if found is None else found[1]
