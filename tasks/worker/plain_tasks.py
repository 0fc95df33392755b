"""Runs what Celery's own code runs in a partition's turn, at least once: plain tasks, by Celery's own request and tracer, and follow-ups of messages."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
from celery import signals
from celery.app.trace import build_tracer
from celery.exceptions import TaskRevokedError
from celery.utils.imports import symbol_by_name
from celery.worker import state as worker_state
from celery.worker.request import create_request_cls
from kombu.message import Message

from celery_partitions.model.effects import Requeue
from celery_partitions.model.errors import describe, trace_of
from celery_partitions.model.items import DeadLetterItem, Item, PlainTask
from celery_partitions.model.outcome import Outcome
from celery_partitions.results.follow_ups import FollowUps, is_follow_up
from celery_partitions.results.link_queues import check_links
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition

logger = logging.getLogger("celery.worker.partitions")

#: A plain Celery task that takes longer is logged. The time of five batches of a busy partition.
SLOW_TASK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class PlainTaskRun:
    """The result of running a plain task."""

    #: The message itself if the task asked to be requeued; it goes to the end of the queue.
    again: list[bytes]
    #: Why Celery could not run the task, and the traceback; None if it ran.
    error: str | None = None
    trace: str = ""


def outcome_of(run: PlainTaskRun, item: PlainTask) -> Outcome:
    """The outcome of a run for the queue that its message came from."""
    outcome = Outcome(taken=1, effects=[Requeue(raw) for raw in run.again])
    if run.error is not None:
        headers = item.headers
        outcome.dead.append((DeadLetterItem(item.raw, "task-failed", run.error, run.trace, headers.task, headers.id), 1))
    return outcome


class PlainTaskRunner:
    """Runs one message at a time, in the loop's thread. Celery handles its signals, events, result and retries.

    A task that asks for a retry publishes its message again, as in any Celery worker, behind newer ones.
    """

    def __init__(self, worker: Any, dispatcher: Any, is_allowed: Callable[[str], bool]) -> None:
        self.worker, self.dispatcher = worker, dispatcher
        self.app = worker.app
        #: Whether what follows a task may go to a queue.
        self.is_allowed = is_allowed
        self._requests: dict[str, Any] = {}

    def __call__(self, raw: bytes) -> PlainTaskRun:
        """Run the task; never raises. Celery handles a failing task; a message that Celery cannot run becomes a dead letter."""
        again: list[bytes] = []
        try:
            self._run(raw, again)
        except TaskRevokedError:
            pass
        except BaseException as error:  # SystemExit raised by a task is that task's failure and must not end the worker
            return PlainTaskRun(again, describe(error), trace_of(error))
        return PlainTaskRun(again)

    def _run(self, raw: bytes, again: list[bytes]) -> None:
        message = _kombu_message(raw)
        name = message.headers["task"]
        check_links(name, _bytes(message.body), self.is_allowed)
        task = self.app.tasks[name]
        if task.__trace__ is None:
            # Celery's consumer builds the tracers once it has connected; the loop may reach the server before that.
            task.__trace__ = build_tracer(name, task, self.app.loader, self.worker.hostname, app=self.app)
        request = self._request_class(name, task)(
            message,
            on_ack=lambda *_: None,
            on_reject=lambda _log, _errors, requeue=False: again.append(raw) if requeue else None,
            app=self.app,
            hostname=self.worker.hostname,
            eventer=self.dispatcher,
            task=task,
            connection_errors=(),
            body=message.body,
            headers={**message.headers, "eta": None},
            decoded=False,
            utc=True,
        )
        if (request.expires or request.id in worker_state.revoked) and request.revoked():
            return
        signals.task_received.send(sender=self.worker.consumer, request=request)
        request.send_event(
            "task-received",
            name=request.name,
            args=request.argsrepr,
            kwargs=request.kwargsrepr,
            root_id=request.root_id,
            parent_id=request.parent_id,
            retries=request.request_dict.get("retries", 0),
            eta=None,
            expires=request.expires and request.expires.isoformat(),
        )
        worker_state.task_reserved(request)
        request.execute_using_pool(self.worker.pool)

    def _request_class(self, name: str, task: Any) -> Any:
        if name not in self._requests:
            base = symbol_by_name(task.Request)
            self._requests[name] = create_request_cls(
                base, task, self.worker.pool, self.worker.hostname, self.dispatcher, app=self.app
            )
        return self._requests[name]


def _bytes(body: Any) -> bytes:
    return body.encode("utf-8", "surrogatepass") if isinstance(body, str) else bytes(body)


def _kombu_message(raw: bytes) -> Message:
    """The message as kombu would decode it. Protocol 1 is converted to protocol 2."""
    content = msgspec.json.decode(raw)
    properties, headers = content["properties"], content.get("headers") or {}
    body: Any = content["body"]
    if properties.get("body_encoding") == "base64":
        body = base64.b64decode(body)
    if "task" not in headers:
        old = msgspec.json.decode(body)
        headers = {**old, **headers}
        for name in ("args", "kwargs"):
            headers.pop(name, None)
        body = msgspec.json.encode([old.get("args") or [], old.get("kwargs") or {}, {}])
    return Message(
        body=body,
        delivery_tag=properties.get("delivery_tag"),
        content_type="application/json",  # what else it may say was checked, and kombu knows no parameters
        content_encoding=content.get("content-encoding", "utf-8"),
        headers=headers,
        properties=properties,
        delivery_info=properties.get("delivery_info") or {},
        accept={"application/json"},
    )


class CeleryTasks:
    """Made once per loop and used by its thread."""

    def __init__(
        self, follow_ups: FollowUps, run_plain_task: Callable[[bytes], PlainTaskRun], clock: Callable[[], float]
    ) -> None:
        self.follow_ups, self.run_plain_task, self.clock = follow_ups, run_plain_task, clock
        #: Plain tasks that were already logged as slow.
        self._slow: set[str] = set()

    def run(self, owned: OwnedPartition, items: Sequence[Item]) -> Outcome:
        """Run the plain task that is the first item, or the follow-ups at the start of `items`."""
        item = items[0]
        if is_follow_up(item):
            return self.follow_ups.run(items)
        assert isinstance(item, PlainTask)
        began = self.clock()
        run = self.run_plain_task(item.raw)
        self._warn_if_slow(owned, item, self.clock() - began)
        return outcome_of(run, item)

    def _warn_if_slow(self, owned: OwnedPartition, item: PlainTask, seconds: float) -> None:
        """Warn once per task name: all partitions of a worker wait while it runs a plain task."""
        name = item.headers.task
        if seconds > SLOW_TASK_SECONDS and name not in self._slow:
            self._slow.add(name)
            text = "partition %s: the plain task %s took %.1f s; every partition of this worker waited. Send it to a separate queue"
            logger.warning(text, owned.partition, name, seconds, extra=log_fields(owned.partition, task=name))
