"""Remote control: in a partition worker, `inspect active_queues` also lists the partitions that it owns.

Flower's broker page asks for it to know which queues to measure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from celery.worker import control as celerys
from celery.worker.control import inspect_command
from kombu.entity import Queue


def list_owned_queues(owned: Callable[[], list[Queue]]) -> None:
    """Replace the command in this process. Called once, by a partition worker; other workers keep Celery's own command."""
    stock = celerys.active_queues

    @inspect_command()  # type: ignore[untyped-decorator]
    def active_queues(state: Any) -> list[dict[str, Any]]:
        """List the task queues a worker is currently consuming from."""
        return [*stock(state), *(dict(queue.as_dict(recurse=True)) for queue in owned())]
