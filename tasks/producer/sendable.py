"""What a computation and the source of a pipeline share: messages can be sent to them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterable, Callable, Iterable
from functools import partial
from typing import Any

from celery import Task
from celery.result import AsyncResult

from celery_partitions.model.computation import Computation
from celery_partitions.model.outbox import current_outbox
from celery_partitions.producer.bulk import WhenFull, send_many, send_many_async
from celery_partitions.runtime import stand_in
from celery_partitions.runtime.registry import close_async_clients, current_installation


class Sending(ABC):
    """Methods for producers. They run in the producer's process and never wait for a worker."""

    @abstractmethod
    def _receiver(self) -> Computation:
        """The computation that receives the messages. Raises `SetupError` before there is one."""

    @property
    def task(self) -> Task:
        """The Celery task of this name in the current app."""
        receiver, tasks = self._receiver(), current_installation().app.tasks
        if receiver.role == "stage" and receiver.name not in tasks:
            receiver.extract(None)  # raises the error that says what to do: no pipeline has this stage, or key= was forgotten
        return tasks[receiver.name]

    def delay(self, *args: Any, message_id: str | None = None, **kwargs: Any) -> AsyncResult:
        """Send one message, an object or its dict. `message_id`: a unique id of your own; with `deduplicate=`, a second message with
        this id has no effect. Raises as `apply_async` does."""
        if message_id is not None and self._receiver().codec.parameter == "message_id":
            return self.task.apply_async(args, {**kwargs, "message_id": message_id})
        return self.task.apply_async(args, kwargs, task_id=message_id)

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Send one message with Celery's options: `countdown`, `eta`, `expires`, `task_id`, `headers`, …

        Raises `MessageError` for an invalid message, `KeyExtractionError`, `QueueFull`, `SetupError`, and kombu's `OperationalError` if
        the broker cannot be reached.
        """
        return self.task.apply_async(args, kwargs, **options)

    async def adelay(self, *args: Any, message_id: str | None = None, **kwargs: Any) -> AsyncResult:
        """`delay` for asyncio: the event loop is not blocked. Await it before you send the key's next message, to keep their order."""
        if message_id is not None and self._receiver().codec.parameter == "message_id":
            kwargs, message_id = {**kwargs, "message_id": message_id}, None
        result: AsyncResult = await self.task.send_async(args, kwargs, message_id)
        return result

    async def asend_many(
        self,
        messages: Iterable[Any] | AsyncIterable[Any],
        *,
        id_of: Callable[[Any], str] | None = None,
        when_full: WhenFull = "block",
    ) -> int:
        """`send_many` for asyncio, also for an async iterable. If its task is cancelled, the messages already taken are sent first."""
        if stand_in.current is not None or current_outbox() is not None:
            taken = [one async for one in messages] if isinstance(messages, AsyncIterable) else messages
            return self.send_many(taken, id_of=id_of)
        installation = current_installation()
        installation.refuse_eager()
        return await send_many_async(installation, self._receiver(), messages, id_of=id_of, when_full=when_full)

    def delay_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """Call `delay` when Django's current transaction commits, or now if there is none. After a rollback nothing is sent.

        An invalid message raises `MessageError` now. If sending fails after the commit, the code that commits gets the error, as with Django's own hooks.
        """
        from django.db import transaction  # noqa: PLC0415 - Django is not a dependency

        called_with = {name: value for name, value in kwargs.items() if name != "message_id"}
        codec = self._receiver().codec
        codec.encode(codec.from_arguments(list(args), kwargs if codec.parameter == "message_id" else called_with))
        transaction.on_commit(partial(self.delay, *args, **kwargs))

    def send_many(
        self,
        messages: Iterable[Any],
        progress: bool | None = None,
        *,
        id_of: Callable[[Any], str] | None = None,
        when_full: WhenFull = "block",
    ) -> int:
        """Send every message of an iterable in bulk, in order. See `celery_partitions.producer.bulk.send_many`.

        Inside a computation they are sent with its commit, as by `delay`.
        """
        if stand_in.current is not None or current_outbox() is not None:
            return len([self.apply_async((message,), task_id=id_of and id_of(message)) for message in messages])
        installation = current_installation()
        installation.refuse_eager()
        return send_many(installation, self._receiver(), messages, progress, id_of=id_of, when_full=when_full)


async def aclose() -> None:
    """Close the connections that `adelay`, `asend_many`, `astate` and `astates` opened in the running event loop.

    Call it once, when the application in this loop ends. Later calls of these methods connect again.
    """
    await close_async_clients()
