"""Task events of partitions as Flower remembers them: a sample, newest first. Called in Flower's event loop, which keeps them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from tasks.model.errors import KeyExtractionError
from tasks.model.keys import partition_of
from tasks.producer.installation import Installation

#: Of the tasks that Flower remembers, looked at.
MOST_LOOKED_AT = 10_000
MOST_SHOWN = 25

#: A worker's event says `key=KEY` and then the arguments (`tasks.worker.reports`).
_KEY = re.compile(r"key=(.*?) [\[(]", re.DOTALL)


def of_key(state: Any, key: str) -> list[dict[str, Any]]:
    """Those whose message was of a key; of another that begins with this one and a space too."""
    start = f"key={key} "
    return list(islice(_matching(state, lambda arguments: arguments.startswith(start)), MOST_SHOWN))


def of_partition(state: Any, partition: int, installation: Installation) -> list[dict[str, Any]]:
    """Those whose key is of a partition."""
    partitions = installation.settings.partitions

    def fits(arguments: str) -> bool:
        found = _KEY.match(arguments)
        try:
            return found is not None and partition_of(found[1], partitions) == partition
        except KeyExtractionError:
            return False

    return list(islice(_matching(state, fits), MOST_SHOWN))


def _matching(state: Any, fits: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    newest_first = islice(reversed(list(state.tasks.items())), MOST_LOOKED_AT)
    for task_id, task in newest_first:
        arguments = task.args
        if isinstance(arguments, str) and arguments.startswith("key=") and fits(arguments):
            found = _KEY.match(arguments)
            yield {
                "id": task_id,
                "name": task.name or "",
                "state": task.state,
                "key": found[1] if found else None,
                "arguments": arguments,
                "at": task.timestamp,
                "runtime": task.runtime,
                "worker": task.worker.hostname if task.worker else None,
                "error": task.exception,
            }
