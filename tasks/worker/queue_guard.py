"""Keeps kombu from consuming the queues of partitions in this process.

kombu takes messages out of a queue before they run, and puts them back at the wrong end: that breaks the order of a key. A worker
could be made to consume such a queue by `-X`, by the app's `task_queues`, or by the remote control command `add_consumer`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any

from celery import Celery
from celery.worker import control as celerys
from celery.worker.control import nok
from kombu.entity import Queue

logger = logging.getLogger("celery.worker.partitions")


def keep_kombu_away(app: Celery, is_ours: Callable[[str], bool]) -> None:
    """Refuse to consume the queues for which `is_ours(name)`. Called once, before the worker creates its consumer."""
    queues = app.amqp.queues
    queues.deselect([name for name in queues.consume_from if is_ours(name)])
    base: Any = app.amqp.Consumer

    class GuardedConsumer(base):  # type: ignore[misc]
        """Leaves out the queues of partitions."""

        def __init__(self, channel: Any, queues: Iterable[Queue] | None = None, *args: Any, **kwargs: Any) -> None:
            super().__init__(channel, [queue for queue in queues or () if not is_ours(queue.name)], *args, **kwargs)

        def add_queue(self, queue: Queue) -> Any:
            if is_ours(queue.name):
                logger.error("partitions: %s", refusal(queue.name))
                return queue
            return super().add_queue(queue)

    app.amqp.Consumer = GuardedConsumer
    refuse_add_consumer(is_ours)


def refuse_add_consumer(is_ours: Callable[[str], bool]) -> None:
    """Answer `control add_consumer` with an error for these queues; Celery would answer ok and consume later."""
    stock = celerys.Panel.data["add_consumer"]

    @wraps(stock)
    def add_consumer(state: Any, queue: str, *args: Any, **kwargs: Any) -> Any:
        return nok(refusal(queue)) if is_ours(queue) else stock(state, queue, *args, **kwargs)

    celerys.Panel.data["add_consumer"] = add_consumer


def refusal(queue: str) -> str:
    """The error for a queue that kombu must not consume."""
    return f"Celery does not consume {queue}, because that breaks the order of its messages. Start a partition worker: celery -A APP worker -Q {queue}"
