"""A computation as a Celery task: its `delay` and `apply_async`."""

from __future__ import annotations

import asyncio
import time
from functools import cached_property
from typing import Any

import msgspec
from celery import Task
from celery.app.task import get_actual_ignore_result
from celery.exceptions import Ignore
from celery.result import AsyncResult, EagerResult
from celery.utils import uuid

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Hop
from celery_partitions.model.errors import PartitionError
from celery_partitions.model.messages import details_of
from celery_partitions.model.outbox import Outbox, current_outbox
from celery_partitions.producer.direct import DirectPublisher
from celery_partitions.producer.message_maker import own_id
from celery_partitions.runtime import stand_in
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.published_form import publish_as_read
from celery_partitions.runtime.sent_now import ANOTHER_APP, note_sent_now

#: How much of a message its header `argsrepr` contains, for monitors. The same as Celery's limit.
MAX_SHOWN_BYTES = 1024


class SentResult(AsyncResult):  # type: ignore[misc]
    """The result of one message. To wait for one that no worker will store is an error, instead of a wait that never ends."""

    def get(self, *args: Any, **kwargs: Any) -> Any:
        """As Celery's. Raises `PartitionError` if the message asks for no result."""
        if self.ignored:
            raise PartitionError(
                "the message asks for no result, so there is nothing to wait for: declare its computation with reply=True, "
                "or send it with apply_async(…, ignore_result=False)"
            )
        return super().get(*args, **kwargs)

    wait = get


class ComputationTask(Task):  # type: ignore[misc]
    """A computation as Celery sees it. Partition workers never call it; they read its messages from the queue themselves."""

    abstract = True
    #: Set by `_register`, from the computation's `reply=`.
    ignore_result = True
    #: Celery would check a call's arguments against the function, which also takes a state that callers do not pass.
    typing = False
    computation: Computation
    installation: Installation

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Send one message, an object or a dict, to the queue of its key.

        Raises `MessageError` for an invalid message (with the field's path) or a `task_id` that is not a str, `KeyExtractionError` for a
        message without a key, `QueueFull` if the queue has no room (PARTITIONS_QUEUE_MAX_LENGTH; several producers together may exceed it
        a little; never inside a computation), `SetupError` if `task_always_eager` is on, and Celery's errors if the broker can't be reached.
        """
        installation, computation, direct = self.installation, self.computation, self._direct
        options = {name: value for name, value in options.items() if value is not None}
        is_direct = direct.serves(options)
        if not is_direct and stand_in.current is None:
            installation.refuse_eager()
        body, decoded, shown = self._encoded(args, kwargs, options)
        if stand_in.current is not None:
            return stand_in.current.take(computation, decoded, options.pop("task_id", None), options)
        outbox = current_outbox()
        if outbox is not None and outbox.app is installation.app:
            return self._join(outbox, decoded, body, shown, options, is_direct)
        if outbox is not None:
            note_sent_now(computation.name, ANOTHER_APP)
        if is_direct:
            message_id, partition = options.get("task_id") or uuid(), installation.partition_of_message(computation, decoded)
            installation.make_sure_of_room(partition)
            direct.publish(partition, message_id, body, shown)
            return self._sent(message_id)
        if not options.get("queue"):
            options["queue"] = installation.queue_with_room(installation.partition_of_message(computation, decoded))
        return self._by_celery(decoded, body, shown, options)

    def _join(self, outbox: Outbox, decoded: Any, body: bytes, shown: str, options: dict[str, Any], is_direct: bool) -> AsyncResult:
        """Send with the commit of the message that a computation is applying."""
        installation, computation = self.installation, self.computation
        options.setdefault("task_id", outbox.next_id())
        if not is_direct:
            if not options.get("queue"):
                options["queue"] = installation.queue(installation.partition_of_message(computation, decoded))
            return self._by_celery(decoded, body, shown, options)
        cause = outbox.cause()
        parent_id, partition = cause.envelope.headers.id, installation.partition_of_message(computation, decoded)
        root_id = details_of(cause.raw).root_id
        root = root_id if isinstance(root_id, str) else parent_id
        _, raw = self._direct.message(partition, options["task_id"], body, shown, root, parent_id)
        outbox.add(Hop(int(partition), raw))
        return self._sent(options["task_id"])

    def _by_celery(self, decoded: Any, body: bytes, shown: str, options: dict[str, Any]) -> AsyncResult:
        """Send by Celery's publishing code."""
        installation, computation = self.installation, self.computation
        publish_as_read(options, installation.app.conf.task_compression)
        # Celery's own short repr would take a tenth of the whole call.
        options.setdefault("argsrepr", shown)
        options.setdefault("kwargsrepr", "{}")
        options["headers"] = {"sent_at": time.time(), **(options.get("headers") or {})}
        arguments, tracing = msgspec.json.decode(body)[0], installation.tracing
        if tracing is None:
            return super().apply_async(arguments, {}, **options)
        queue = str(getattr(options["queue"], "name", options["queue"]))
        with tracing.sending(computation.name, queue, lambda: computation.key_of(decoded), options["headers"]) as sent:
            result = super().apply_async(arguments, {}, **options)
            sent.is_of(result.id)
            return result

    async def send_async(self, args: Any, kwargs: Any, message_id: str | None) -> AsyncResult:
        """`apply_async` in the running event loop. What needs Celery's own publishing code runs in a thread, because kombu blocks."""
        installation, options = self.installation, {} if message_id is None else {"task_id": message_id}
        if stand_in.current is not None or current_outbox() is not None:
            return self.apply_async(args, kwargs, **options)
        if not self._direct.serves(options):
            return await asyncio.to_thread(self.apply_async, args, kwargs, **options)
        body, decoded, shown = self._encoded(args, kwargs, options)
        message_id, partition = message_id or uuid(), installation.partition_of_message(self.computation, decoded)
        await installation.make_sure_of_room_async(partition)
        await self._direct.publish_async(partition, message_id, body, shown)
        return self._sent(message_id)

    def AsyncResult(self, task_id: str, **options: Any) -> SentResult:
        return SentResult(task_id, backend=self.backend, task_name=self.name, app=self.installation.app, **options)

    def _sent(self, message_id: str) -> SentResult:
        """The result of a message that was sent directly: it asks for what its computation's declaration says."""
        result = self.AsyncResult(message_id)
        result.ignored = self.ignore_result
        return result

    def _encoded(self, args: Any, kwargs: Any, options: dict[str, Any]) -> tuple[bytes, Any, str]:
        """The body, the message as workers decode it, and what monitors show of it. Raises `MessageError`."""
        if options.get("task_id") is not None:
            own_id(options["task_id"], "a message's id (task_id, message_id)")
        codec = self.computation.codec
        body, decoded = codec.encode(codec.from_arguments(list(args or ()), dict(kwargs or {})))
        self.installation.check_size(body)
        message_text = body[2:-8]
        return body, decoded, f"({message_text[:MAX_SHOWN_BYTES].decode('utf-8', 'ignore')},)"

    @cached_property
    def _direct(self) -> DirectPublisher:
        return DirectPublisher(self, self.installation)

    def apply(self, *args: Any, **options: Any) -> EagerResult:
        """Called by Celery's canvas in an eager app, for each part. Raises `SetupError`; otherwise the error would only be in a result that
        nobody reads."""
        self.installation.refuse_eager()
        return super().apply(*args, **options)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Forward a message that was in a queue outside the group to its partition, unchanged. Called only for such messages.

        Raises Celery's `Ignore`, so that no result is stored and no follow-up is sent before the computation has run.
        """
        self.apply_async(args, kwargs, **self._as_it_came())
        raise Ignore

    def _as_it_came(self) -> dict[str, Any]:
        """The options that make the forwarded message equal to the current one: its id, its result, its follow-ups."""
        if self.request.called_directly:
            return {}
        options = self.request.as_execution_options()
        options["ignore_result"] = get_actual_ignore_result(self, self.request)
        return {name: value for name, value in options.items() if value is not None}
