"""A computation as a Celery task: what `delay` and `apply_async` of it do."""

from __future__ import annotations

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
from celery_partitions.producer.direct import DirectPublisher
from celery_partitions.producer.message_maker import own_id
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.published_form import publish_as_read

#: Of a message, so much stands in its header for monitors to show; the same as Celery's own limit.
MAX_SHOWN_BYTES = 1024


class ComputationTask(Task):  # type: ignore[misc]
    """Celery's face of a computation. Partition workers never call it; they take its messages from the queue."""

    abstract = True
    #: As the computation was declared (`reply=`): `_register` says it.
    ignore_result = True
    #: Celery would check the call against the function, which takes a state that no caller passes.
    typing = False
    computation: Computation
    installation: Installation

    def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """Send one message, an object or its dict, to its key's queue.

        Raises `MessageError` with the field's path when it does not fit, and for a `task_id` that is no text, `KeyExtractionError` when it has no key,
        `QueueFull` when its queue has no room (PARTITIONS_QUEUE_MAX_LENGTH; several producers may together go a little past it), `SetupError` where
        `task_always_eager` is on, and what Celery raises when the broker can't be reached.
        """
        installation, computation, direct = self.installation, self.computation, self._direct
        options = {name: value for name, value in options.items() if value is not None}
        is_direct = direct.serves(options)
        if not is_direct:
            installation.refuse_eager()
        if options.get("task_id") is not None:
            own_id(options["task_id"], "a message's id (task_id, message_id)")
        message = computation.codec.from_arguments(list(args or ()), dict(kwargs or {}))
        body, decoded = computation.codec.encode(message)
        installation.check_size(body)
        message_text = body[2:-8]
        shown = f"({message_text[:MAX_SHOWN_BYTES].decode('utf-8', 'ignore')},)"
        if is_direct:
            message_id, partition = options.get("task_id") or uuid(), installation.partition_of_queue(computation, decoded)
            installation.make_sure_of_room(partition)
            direct.publish(partition, message_id, body, shown)
            return self.AsyncResult(message_id)
        if not options.get("queue"):
            options["queue"] = installation.queue_with_room(installation.partition_of_queue(computation, decoded))
        publish_as_read(options, installation.app.conf.task_compression)
        # Celery would look for a short repr in a way that takes a tenth of the whole call.
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

    @cached_property
    def _direct(self) -> DirectPublisher:
        return DirectPublisher(self, self.installation)

    def apply(self, *args: Any, **options: Any) -> EagerResult:
        """What canvas calls in an eager app, for each part. Raises `SetupError` there: else the error would be in a result nobody reads."""
        self.installation.refuse_eager()
        return super().apply(*args, **options)

    def run(self, *args: Any, **kwargs: Any) -> None:
        """Reached only where a message lies in a queue that is not of the group: it is sent to where it belongs, as it is.

        Raises Celery's `Ignore`, so that nothing is stored and nothing follows before the computation has run.
        """
        self.apply_async(args, kwargs, **self._as_it_came())
        raise Ignore

    def _as_it_came(self) -> dict[str, Any]:
        """The options that make a message again what the one under work is: its id, its result, what follows it."""
        if self.request.called_directly:
            return {}
        options = self.request.as_execution_options()
        options["ignore_result"] = get_actual_ignore_result(self, self.request)
        return {name: value for name, value in options.items() if value is not None}
