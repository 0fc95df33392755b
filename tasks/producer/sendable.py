"""What everything that messages are sent to can do: a computation, and the source of a pipeline."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from typing import Any

from celery import Task
from celery.result import AsyncResult

from celery_partitions.model.computation import Computation
from celery_partitions.producer.bulk import WhenFull, send_many
from celery_partitions.runtime.registry import current_installation


class Sending(ABC):
    """Called in any producer's process; nothing here waits for a worker."""

    @abstractmethod
    def _receiver(self) -> Computation:
        """What takes the messages. May raise `SetupError`: nothing does yet."""

    @property
    def task(self) -> Task:
        """The Celery task of this name in the app in use."""
        return current_installation().app.tasks[self._receiver().name]

    def delay(self, *args: Any, message_id: str | None = None, **kwargs: Any) -> AsyncResult:
        """Send one message, an object or its dict; `message_id`: an id of your own, unique to the message, by which a second
        sending is found (`deduplicate=`). Raises `MessageError` when it does not fit."""
        if self._receiver().codec.parameter == "message_id" and message_id is not None:
            return self.task.apply_async(args, {**kwargs, "message_id": message_id})
        return self.task.apply_async(args, kwargs, task_id=message_id)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Send one message with Celery's options: `countdown`, `eta`, `expires`, `task_id`, `headers`, …"""
        return self.task.apply_async(args, kwargs, **options)

    def send_many(
        self,
        messages: Iterable[Any],
        progress: bool | None = None,
        *,
        id_of: Callable[[Any], str] | None = None,
        when_full: WhenFull = "block",
    ) -> int:
        """Send every message of an iterable in bulk, in order; see `celery_partitions.producer.bulk.send_many`."""
        installation = current_installation()
        installation.refuse_eager()
        return send_many(installation, self._receiver(), messages, progress, id_of=id_of, when_full=when_full)
