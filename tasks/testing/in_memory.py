"""`harness`: a pipeline, an application or a computation, run in memory."""

from __future__ import annotations

from collections.abc import Iterable
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
from celery_partitions.testing.keyspace import Keyspace
from celery_partitions.testing.memory import client_of
from celery_partitions.testing.view import Parts, Subject, View
from celery_partitions.testing.virtual import CRASH_POINTS, CrashPoint, HarnessError, VirtualLoop
from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.settings import DEFAULT_REDIS_URL, Settings

#: When the virtual clock begins: 2026-01-01 00:00 UTC.
BEGINNING = 1_767_225_600.0
#: As near as two times of our days can be told apart as floats.
_NEAR_SECONDS = 1e-6


def harness(
    subject: Subject | Pipeline,
    *,
    partitions: int | None = None,
    batch_messages: int | None = None,
    twice: bool = False,
    now: datetime | float = BEGINNING,
    settings: Settings | None = None,
) -> Harness:
    """Run a pipeline, an application or a computation with a key in memory: `with harness(pipeline) as h:`.

    It is the engine's own loop with everything that is in a worker (messages go through JSON, states are pickled, each `key_by` is
    a hop to a partition, a batch is one commit), on a Redis inside the process, by a clock that stands still. A pipeline need
    not be built into an application before, and is not made known to the Celery app.

    `partitions`, `batch_messages`: as the settings of these names. `twice`: each batch is run by two workers, of which
    one is too late, and each commit is sent twice: no state, output or dead letter may double (what a computation does outside
    its state does: it is called twice). `now`: when the clock begins. `settings`: else they are read from the environment.

    What is not as in a worker: time limits are not kept, retries have no jitter, a batch takes no time, and what leaves to a sink
    stays where it can be looked at (`outputs`). Raises `DeclarationError`.
    """
    found = settings or Settings.from_environment()
    changed = {"partitions": partitions, "batch_messages": batch_messages}
    found = replace(
        found,
        redis_url=DEFAULT_REDIS_URL,
        wait_replicas=0,
        **cast("dict[str, Any]", {name: value for name, value in changed.items() if value is not None}),
    )
    begins = now.timestamp() if isinstance(now, datetime) else float(now)
    return Harness(subject, found, begins, twice=twice)


class Harness(View):
    """What `harness` gives. Use it as a context manager: at the end a crash that was ordered and never came is an error."""

    def __init__(self, subject: Subject | Pipeline, settings: Settings, now: float, *, twice: bool) -> None:
        if isinstance(subject, Pipeline):
            subject = build("harness", subject)
        parts = Parts.of(subject)
        computations = {**parts.stages, **parts.sources}
        for computation in computations.values():
            if computation.state is not None:
                computation.state.check_allowed(settings.state_modules)
        app = Celery("harness", set_as_current=False)
        app.config_from_object(celery_options(settings))
        self._app = app
        #: What the harness's Redis holds. Its `now` is the virtual clock.
        self._keyspace = Keyspace()
        self._keyspace.now = now
        super().__init__(parts, Installation(app, settings, computations, by_default=False))
        self.installation.group.client = client_of(self._keyspace)
        self._loop = VirtualLoop(self.installation, self._keyspace, twice=twice)
        self._sent = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._app.close()
        if kind is None and self._loop.crashes:
            raise HarnessError(f"the crash {self._loop.crashes[0]} never came: no batch got there")

    @property
    def now(self) -> float:
        """Seconds since the epoch by the virtual clock."""
        return self._keyspace.now

    def send(
        self, message: Any, source: Any = None, message_id: str | None = None, *, countdown: float | None = None
    ) -> str:
        """Send one message, an object or its dict, and let all that follows from it be done; returns its id.

        `source`: its name, or what `source()` gave; may be left out where there is one. A source with a config is sent what its
        decoder or generator gives. `message_id`: None: `1`, `2`, … `countdown`: only in so many seconds (`advance`). Raises
        `MessageError` and `KeyExtractionError` as a producer would.
        """
        sent = self._enqueue(message, self.source_of(source), message_id, countdown)
        self._loop.run_until_idle()
        return sent

    def send_many(self, messages: Iterable[Any], source: Any = None) -> list[str]:
        """Send messages that are all in their queues before the first is taken, so that batches have more than one; their ids."""
        computation = self.source_of(source)
        ids = [self._enqueue(message, computation, None, None) for message in messages]
        self._loop.run_until_idle()
        return ids

    def advance(
        self, *, days: float = 0, hours: float = 0, minutes: float = 0, seconds: float = 0, milliseconds: float = 0
    ) -> None:
        """Let time go on: timers of windows, delayed messages and retries fall due, each at its time."""
        elapsed = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds, milliseconds=milliseconds)
        target = self._keyspace.now + elapsed.total_seconds()
        while True:
            self._loop.run_until_idle()
            due = self._loop.next_due()
            if due is None or due > target + _NEAR_SECONDS:
                break
            self._keyspace.now = max(due, self._keyspace.now)
        self._keyspace.now = max(target, self._keyspace.now)

    def crash(self, at: CrashPoint) -> None:
        """Let the worker die, as by SIGKILL, in the next batch that gets to a point; another worker takes over at once.

        - `before reading`: the batch was taken from its queue, and nothing more was done;
        - `before the step`: it is read, its states are loaded, and no computation has run;
        - `in the step`: its first message has run;
        - `before the commit`: all of it has run, and nothing is written;
        - `after the commit`: all is written, and the worker has not seen the reply;
        - `after the reply`: it has, and holds the next batch and states in its memory.

        Several crashes come one after the other. As in a group, what the dead worker may have died over is run message by
        message, and a message over which `PARTITIONS_MAX_WORKER_CRASHES` workers died is a dead letter. Raises `HarnessError` for another word.
        """
        if at not in CRASH_POINTS:
            raise HarnessError(f"crash(at={at!r}): say one of {', '.join(CRASH_POINTS)}")
        self._loop.crashes.append(at)

    def resume(self) -> None:
        """Resume the partitions that a failure has paused, as `partitions resume` does."""
        self._loop.resume()
        self._loop.run_until_idle()

    def _enqueue(self, message: Any, source: Computation, message_id: str | None, countdown: float | None) -> str:
        self._sent += 1
        name = str(self._sent) if message_id is None else message_id
        installation, codec = self.installation, self.installation.group.codec
        if source.takes_values and not source.codec.is_typed:
            body, decoded = dump_value(source.codec, message, lambda: codec.dump_value(source.name, name, message)), message
        else:
            body, decoded = source.codec.encode(message)
        installation.check_size(body)
        partition = installation.partition_of_queue(source, decoded)
        more = b',"parent_id":null'
        if countdown is not None:
            due = datetime.fromtimestamp(self._keyspace.now + countdown, UTC)
            more += b',"eta":' + json_text(due.isoformat())
        names = installation.group.names
        template = MessageTemplate(source.name, names.queue_name(partition), "harness")
        raw = template.fill(escape(name), json_text(self._keyspace.now), body, more)
        self.installation.group.client.lpush(names.queue(partition), raw)
        return name
