"""`harness`: runs a pipeline, an application or a computation in memory."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from types import TracebackType
from typing import Any, Self, cast

from celery import Celery

from celery_partitions.model.computation import Computation
from celery_partitions.model.message_writer import MessageTemplate, escape, json_text
from celery_partitions.model.values import dump_value
from celery_partitions.pipeline.builder import build
from celery_partitions.pipeline.graph import Pipeline
from celery_partitions.runtime.installation import Installation
from celery_partitions.testing.capture import Capture, Sent
from celery_partitions.testing.keyspace import Keyspace
from celery_partitions.testing.memory import client_of
from celery_partitions.testing.view import Parts, Subject, View
from celery_partitions.testing.virtual import CRASH_POINTS, CrashPoint, HarnessError, VirtualWorkers
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import DEFAULT_REDIS_URL, Settings

#: When the virtual clock begins: 2026-01-01 00:00 UTC.
BEGINNING = 1_767_225_600.0
#: The precision at which present-day timestamps can be compared as floats.
_NEAR_SECONDS = 1e-6


def harness(
    subject: Subject | Pipeline,
    *,
    partitions: int | None = None,
    batch_messages: int | None = None,
    twice: bool = False,
    now: datetime | float = BEGINNING,
    settings: Settings | None = None,
    resources: Mapping[str, Any] | None = None,
) -> Harness:
    """Run a pipeline, an application or a computation with a key in memory: `with harness(pipeline) as h:`.

    It runs the engine's own loop, as in a worker: messages pass through JSON, states are pickled, each `key_by` is a hop to a
    partition, and a batch is one commit. Redis is replaced by data in this process, and the clock moves only with `advance`. A
    pipeline needs no `build_application` and is not registered with the Celery app.

    `partitions`, `batch_messages`: override the settings of these names. `now`: the start of the clock. `settings`: default from
    the environment. `twice`: two workers run each batch, the second takes over from the first, and each commit is sent twice. No
    state, output or dead letter may be duplicated. Side effects of your computations outside their state do occur twice.

    `resources`: what computations get as `context.resources`; no lifespan is entered. Coroutines run one at a time, each to its end on a
    virtual clock of its own, so `await asyncio.sleep(60)` takes no time.

    Differences from a worker: time limits are ignored, retries have no jitter, a batch takes no time, and outputs are not delivered
    (read them with `outputs`). Raises `DeclarationError`.
    """
    found = settings or from_environment()
    changed = {"partitions": partitions, "batch_messages": batch_messages}
    found = replace(
        found,
        redis_url=DEFAULT_REDIS_URL,
        partitions_url="",
        wait_replicas=0,
        deploy_wait_seconds=0.0,  # there are no other workers that may know more
        **cast("dict[str, Any]", {name: value for name, value in changed.items() if value is not None}),
    )
    begins = now.timestamp() if isinstance(now, datetime) else float(now)
    return Harness(subject, found, begins, twice=twice, resources=resources or {})


class Harness(View):
    """Made by `harness`. Use it as a context manager. On exit it raises `HarnessError` if a requested crash never happened."""

    def __init__(self, subject: Subject | Pipeline, settings: Settings, now: float, *, twice: bool, resources: Mapping[str, Any]) -> None:
        if isinstance(subject, Pipeline):
            subject = build("harness", subject)
        parts = Parts.of(subject)
        computations = {**parts.stages, **parts.sources}
        computations |= {handler.name: handler for one in computations.values() for handler in one.handlers.values()}
        for computation in computations.values():
            if computation.state is not None:
                computation.state.check_allowed(settings.state_modules)
        app = Celery("harness", set_as_current=False)
        app.config_from_object(celery_options(settings))
        self._app = app
        #: The data of the harness's Redis. Its `now` is the virtual clock.
        self._keyspace = Keyspace()
        self._keyspace.now = now
        super().__init__(parts, Installation(app, settings, computations, by_default=False))
        self.installation.group.client = client_of(self._keyspace)
        self._workers = VirtualWorkers(self.installation, self._keyspace, twice=twice, resources=resources)
        self._messages = 0
        self._capture = Capture(lambda: self.installation.group)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._app.close()
        if kind is None and self._workers.crashes.points:
            raise HarnessError(f"the crash {self._workers.crashes.points[0]} never happened: no batch reached that point. Send a message after crash(), or remove it")
        if kind is None and self._workers.crashes.awaits:
            raise HarnessError(f"the crash at await {self._workers.crashes.awaits[0]} never happened: no coroutine waited that often after crash_at_await()")

    @property
    def now(self) -> float:
        """The virtual clock, in seconds since the epoch."""
        return self._keyspace.now

    @property
    def sent(self) -> list[Sent]:
        """What computations sent by themselves, with `delay`, `send_many`, `send_task`, …, in order. None of it is delivered.

        What a failed call sent is not in it, unless the call sent it in `context.send_now()`.
        """
        return self._capture.sent

    def send(
        self, message: Any, source: Any = None, message_id: str | None = None, *, countdown: float | None = None
    ) -> str:
        """Send one message (an object or its dict) and process it and everything that follows from it. Returns its id.

        `source`: a source's name, or the result of `source()`; optional if there is only one. For a source with a config, send what
        its decoder or generator returns. `message_id`: default `1`, `2`, … `countdown`: deliver the message after this many seconds
        of the virtual clock (`advance`). Raises `MessageError` and `KeyExtractionError`, as a producer does.
        """
        with self._capture():
            sent = self._enqueue(message, self.source_of(source), message_id, countdown)
            self._workers.run_until_idle()
        return sent

    def send_many(self, messages: Iterable[Any], source: Any = None) -> list[str]:
        """Queue all messages before processing the first, so that batches hold several messages. Returns their ids."""
        computation = self.source_of(source)
        with self._capture():
            ids = [self._enqueue(message, computation, None, None) for message in messages]
            self._workers.run_until_idle()
        return ids

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0, milliseconds: float = 0
    ) -> None:
        """Advance the virtual clock. Window timers, delayed messages and retries that fall due are processed, each at its time."""
        elapsed = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        target = self._keyspace.now + elapsed.total_seconds()
        while True:
            self._run()
            due = self._workers.next_due()
            if due is None or due > target + _NEAR_SECONDS:
                break
            self._keyspace.now = max(due, self._keyspace.now)
        self._keyspace.now = max(target, self._keyspace.now)

    def crash(self, at: CrashPoint) -> None:
        """Kill the worker, as by SIGKILL, in the next batch that reaches a point. Another worker takes over immediately.

        - `before reading`: the worker took the batch from its queue and did nothing else;
        - `before the step`: it read the batch and loaded its states, but ran no computation;
        - `in the step`: it ran the first message;
        - `before the commit`: it ran all messages and wrote nothing;
        - `after the commit`: everything is written, but the worker has not seen the reply;
        - `after the reply`: it has seen the reply, and has the next batch and states in memory.

        Repeated calls cause several crashes, in order. As with real workers, the messages that may have killed the worker then run one
        by one, and a message that killed `PARTITIONS_MAX_WORKER_CRASHES` workers after the first becomes a dead letter. Raises `HarnessError` for an
        unknown point.
        """
        if at not in CRASH_POINTS:
            raise HarnessError(f"crash(at={at!r}): unknown point, expected one of {', '.join(CRASH_POINTS)}")
        self._workers.crashes.points.append(at)

    def crash_at_await(self, number: int = 1) -> None:
        """Kill the worker, as by SIGKILL, in the next coroutine that waits at its await of this number, counted from 1. Another worker takes
        over immediately. Awaits that need not wait do not count."""
        self._workers.crashes.awaits.append(number)

    def resume(self) -> None:
        """Resume partitions that a failure paused, as `partitions resume` does, and process their messages."""
        self._workers.resume()
        self._run()

    def _run(self) -> None:
        with self._capture():
            self._workers.run_until_idle()

    def _enqueue(self, message: Any, source: Computation, message_id: str | None, countdown: float | None) -> str:
        self._messages += 1
        name = str(self._messages) if message_id is None else message_id
        installation, codec = self.installation, self.installation.group.codec
        if source.takes_values and not source.codec.is_typed:
            body, decoded = dump_value(source.codec, message, lambda: codec.dump_value(source.name, name, message)), message
        else:
            body, decoded = source.codec.encode(message)
        installation.check_size(body)
        partition = installation.partition_of_message(source, decoded)
        more = b',"parent_id":null'
        if countdown is not None:
            due = datetime.fromtimestamp(self._keyspace.now + countdown, UTC)
            more += b',"eta":' + json_text(due.isoformat())
        names = installation.group.names
        template = MessageTemplate.small(source.name, names.queue_name(partition), "harness")
        raw = template.fill(escape(name), json_text(self._keyspace.now), body, more)
        self.installation.group.client.lpush(names.queue(partition), raw)
        return name
