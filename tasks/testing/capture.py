"""Catches what computations send while the test kit runs them: nothing leaves the process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, cast

from celery import Celery
from celery.backends.base import DisabledBackend
from celery.result import AsyncResult
from celery.utils import uuid

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import Push
from celery_partitions.model.outbox import current_outbox
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime import stand_in
from celery_partitions.runtime.group import Group
from celery_partitions.runtime.registry import declared

#: Options of `Celery.send_task` that are objects of this process, not facts of the message.
_OBJECTS = frozenset({"connection", "producer", "result_cls", "router", "task_type"})


@dataclass(frozen=True, slots=True)
class Sent:
    """One message or task that a computation sent, with its message's commit or in `context.send_now()`, with `delay`, `apply_async`, `send_many`, `send_task` or a canvas."""

    #: The task's name.
    name: str
    #: For a computation: its one message, as it would receive it.
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    #: The normalized key. None for a plain task.
    key: str | None
    id: str
    #: The other options of the call: `countdown`, `queue`, `headers`, …
    options: dict[str, Any] = field(repr=False)

    @property
    def message(self) -> Any:
        """The first argument; for a computation, its message."""
        return self.args[0]


#: The list in the harness's Redis with what was sent.
SENT = "harness:sent"


class _NoResults(DisabledBackend):  # type: ignore[misc]
    """The result backend while computations run: stores nothing, so that chords connect to no server. `get()` raises."""

    def set_chord_size(self, group_id: str, chord_size: int) -> None: ...

    def apply_chord(self, header_result_args: Any, body: Any, **options: Any) -> None: ...

    def ensure_chords_allowed(self) -> None: ...


class Capture:
    """What was sent, in order. `make_group`: makes the group whose states computations read with `state()`."""

    def __init__(self, make_group: Callable[[], Group]) -> None:
        self._make_group = make_group
        #: Everything that was sent, also by calls whose messages failed. The list `SENT` in Redis has the numbers of those that count.
        self._all: list[Sent] = []
        self._results = _NoResults(app=Celery("sent", set_as_current=False))

    @property
    def group(self) -> Group:
        return self._make_group()

    def take(self, computation: Computation, message: Any, message_id: str | None, options: dict[str, Any]) -> AsyncResult:
        return self._add(computation.name, (message,), {}, computation.key_of(message), message_id, options)

    def send_task(self, app: Celery, name: str, args: Any = None, kwargs: Any = None, **options: Any) -> AsyncResult:
        """In place of `Celery.send_task`, which every plain task and every canvas uses."""
        message_id = options.pop("task_id", None)
        options = {name: value for name, value in options.items() if value is not None and name not in _OBJECTS}
        computation = declared.get(name)
        if computation is None:
            return self._add(name, tuple(args or ()), dict(kwargs or {}), None, message_id, options)
        message = computation.codec.from_arguments(list(args or ()), dict(kwargs or {}))
        return self.take(computation, computation.codec.encode(message)[1], message_id, options)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Catch everything that this process sends, in all its threads and by all its apps."""
        capture = self

        def send_task(app: Celery, *args: Any, **options: Any) -> AsyncResult:
            return capture.send_task(app, *args, **options)

        before = stand_in.current, Celery.send_task, Celery.backend
        stand_in.current, Celery.send_task, Celery.backend = self, send_task, property(lambda _: self._results)
        try:
            yield
        finally:
            stand_in.current, Celery.send_task, Celery.backend = before

    @property
    def sent(self) -> list[Sent]:
        """What was sent in commits, or at once, in order."""
        numbers = cast("list[bytes]", self.group.client.lrange(SENT, 0, -1))
        return [self._all[int(number)] for number in reversed(numbers)]

    def commit(self, outcome: Outcome) -> None:
        """Write what an outcome sends, as its commit would."""
        for one in outcome.emitted:
            if isinstance(one, Push) and one.queue == SENT:
                self.group.client.lpush(SENT, one.raw)

    def _add(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], key: str | None, message_id: str | None, options: dict[str, Any]
    ) -> AsyncResult:
        outbox = current_outbox()
        message_id = message_id or (uuid() if outbox is None else outbox.next_id())
        self._all.append(Sent(name, args, kwargs, key, message_id, options))
        number = str(len(self._all) - 1).encode()
        if outbox is None:
            self.group.client.lpush(SENT, number)
        else:
            outbox.add(Push(SENT, number))
        return AsyncResult(message_id, backend=self._results)
