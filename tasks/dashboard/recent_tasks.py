"""Recent task events of partitions from Flower's memory: a sample, newest first. Call it in Flower's event loop, which owns them."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from celery_partitions.model.errors import KeyExtractionError
from celery_partitions.model.keys import keys_shown_as, shown_key
from celery_partitions.runtime.installation import Installation

#: How many of Flower's tasks are searched.
MAX_LOOKED_AT = 10_000
MAX_SHOWN = 25

#: A worker's event has `key=KEY`, in the form of `shown_key`, then the arguments (`celery_partitions.worker.reports`).
_KEY = re.compile(r"key=(.*?) [\[(]", re.DOTALL)


def of_key(state: Any, key: str) -> list[dict[str, Any]]:
    """The events of one key. May include another key that looks the same when shown, or that starts with this key and a space."""
    start = f"key={shown_key(key)} "
    return list(islice(_matching(state, lambda arguments: arguments.startswith(start)), MAX_SHOWN))


def of_partition(state: Any, partition: int, installation: Installation) -> list[dict[str, Any]]:
    """The events of one partition. An event whose shown key fits two keys counts for both partitions."""
    topology = installation.group.topology

    def fits(arguments: str) -> bool:
        found = _KEY.match(arguments)
        try:
            keys = [] if found is None else keys_shown_as(found[1])
            return any(topology.partition_of(key) == partition for key in keys)
        except KeyExtractionError:
            return False

    return list(islice(_matching(state, fits), MAX_SHOWN))


def _matching(state: Any, fits: Callable[[str], bool]) -> Iterator[dict[str, Any]]:
    newest_first = islice(reversed(list(state.tasks.items())), MAX_LOOKED_AT)
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
