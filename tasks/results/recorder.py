"""What Celery would send and store, made into commands of a commit instead.

Celery itself builds what follows a message (links, chains, groups, chords, error callbacks) and what it stores; only the last step
is replaced: publishing goes to a channel that writes down `LPUSH`, storing goes to a backend that writes down `REPLY` and
`CHORD`. Nothing here reaches the server while a step runs.

Of Celery it uses, beyond its public API, what the class `RecordingBackend` overrides, and the stack of tasks under work; the
tests in `tests/results` compare what it makes with a stock worker.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import Celery
from celery._state import _task_stack
from celery.app.task import Context
from celery.backends.redis import RedisBackend
from celery.exceptions import BackendStoreError
from kombu.connection import Connection
from kombu.transport import virtual
from kombu.utils.json import dumps

from celery_partitions.model.errors import MessageError, SetupError
from celery_partitions.runtime.queue_limit import looks_for_room
from celery_partitions.store.client import UNWELL
from celery_partitions.store.names import Names
from celery_partitions.store.results import ChordKeys, chord_part, reply, start_of_chord

#: What one message may tell and send. Several such messages fit into a commit.
MAX_FOLLOW_UP_BYTES = 64_000_000
#: kombu's, where the broker's options say nothing.
PRIORITY_STEPS = [0, 3, 6, 9]
SEPARATOR = "\x06\x16"

_under_way: ContextVar[Recorder | None] = ContextVar("partitions_recorder", default=None)


class RecordingChannel(virtual.Channel):
    """kombu's Redis channel as far as a producer uses it, without Redis."""

    do_restore = False
    record: Callable[[list[Any]], None]
    #: Whether a queue's name is that of something else that the group keeps in Redis.
    is_taken: Callable[[str], bool]

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        if exchange:
            raise SetupError(
                f"what follows a computation is pushed onto a queue, and exchange {exchange!r} was named: route it by queue="
            )
        super().basic_publish(message, exchange, routing_key, **kwargs)

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        options = self.connection.client.transport_options
        steps = options.get("priority_steps") or PRIORITY_STEPS
        step = steps[bisect(steps, self._get_message_priority(message)) - 1]
        name = f"{queue}{options.get('sep', SEPARATOR)}{step}" if step else queue
        if self.is_taken(queue):
            raise SetupError(f"what follows a computation is pushed onto a queue, and {queue!r:.80} is a name that the partitions keep for themselves")
        self.record(["LPUSH", options.get("global_keyprefix", "") + name, dumps(message)])

    def _queue_bind(self, *_: Any) -> None: ...

    def _new_queue(self, *_: Any, **__: Any) -> None: ...

    def _size(self, queue: str) -> int:
        return 0


class _RecordingTransport(virtual.Transport):
    Channel = RecordingChannel
    driver_type = "redis"


class Recorder:
    """Made once a loop, used by its thread. `backend` is None where results can't go into a commit."""

    def __init__(self, app: Celery, names: Names) -> None:
        self.app = app
        self.commands: list[list[Any]] = []
        self._bytes = 0
        options = dict(app.conf.broker_transport_options or {})
        self._connection = Connection(transport=_RecordingTransport, transport_options=options)
        channel = self._connection.channel()
        channel.record, channel.is_taken = self.record, names.is_no_queue
        self.producer = app.amqp.Producer(channel, auto_declare=False)
        _publish_through_recorders(app)

    def record(self, command: list[Any]) -> None:
        """Raises `MessageError` when what one message tells and sends is more than a commit may have."""
        self.commands.append(command)
        self._bytes += sum(len(word) for word in command if isinstance(word, str | bytes))
        if self._bytes > MAX_FOLLOW_UP_BYTES:
            raise MessageError(
                f"what follows the message is more than {MAX_FOLLOW_UP_BYTES:,} bytes: a chord's body is copied into each of its "
                "messages. Make it smaller, or send it from a task of its own",
                reason="too-large",
            )

    @contextmanager
    def at_work(self, backend: Any, task: Any, request: Context) -> Iterator[list[list[Any]]]:
        """While Celery's code of this thread acts for a task's request: the list of what it would have sent and stored.

        With `result_backend_thread_safe` Celery keeps one backend for all threads, and a chord that follows has its size written when
        the step runs.
        """
        commands: list[list[Any]] = []
        self.commands, self._bytes = commands, 0
        token, no_room = _under_way.set(self), looks_for_room.set(False)
        _task_stack.push(task)
        task.request_stack.push(request)
        # The backend of this thread, as `app.backend` finds it.
        before = getattr(self.app._local, "backend", None)
        self.app._local.backend = backend
        try:
            yield commands
        finally:
            if before is None:
                del self.app._local.backend
            else:
                self.app._local.backend = before
            task.request_stack.pop()
            _task_stack.pop()
            looks_for_room.reset(no_room)
            _under_way.reset(token)


def _publish_through_recorders(app: Celery) -> None:
    """From now on the app's messages go to the recorder that is at work in the sender's context, if one is."""
    send = app.amqp.send_task_message
    if getattr(send, "records", False):
        return

    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        recorder = _under_way.get()
        if recorder is None:
            return send(producer, name, message, **options)
        # An event can't wait for the commit, and would tell of what may never be sent.
        return send(recorder.producer, name, message._replace(sent_event=None), **options)

    send_task_message.records = True  # type: ignore[attr-defined]
    app.amqp.send_task_message = send_task_message


class _Reads:
    """The result server's client as the backend uses it: reads are read, writes are written down.

    A server that does not answer is remembered: Celery takes it for an error of the chord.
    """

    def __init__(self, backend: RecordingBackend, client: Any) -> None:
        self._backend, self._client = backend, client

    def set(self, key: Any, value: Any, ex: Any = None) -> None:
        self._backend.record(["SET", key, value, *(["EX", int(ex)] if ex else [])])

    def delete(self, *keys: Any) -> None:
        for key in keys:
            self._backend.record(["DEL", key])

    def incr(self, key: Any, amount: int = 1) -> None:
        self._backend.record(["INCRBY", key, amount])

    def get(self, key: Any) -> Any:
        return self._backend.noting_outages(self._client.get)(key)

    def mget(self, keys: Any) -> Any:
        return self._backend.noting_outages(self._client.mget)(keys)

    def pipeline(self) -> Any:
        pipe = self._client.pipeline()
        pipe.execute = self._backend.noting_outages(pipe.execute)
        return pipe

    def __getattr__(self, name: str) -> Any:
        return getattr(self._client, name)


class RecordingBackend(RedisBackend):  # type: ignore[misc]
    """Celery's Redis backend, whose writes go into a commit. `make_backend` makes one for an app."""

    recorder: Recorder
    #: The partition's queue: as Redis has it, and as Celery names it.
    queue = ("", "")
    #: A chord whose parts are all there is being started.
    starting = False
    #: The server did not answer a read.
    outage: BaseException | None = None

    def record(self, command: list[Any]) -> None:
        self.recorder.record(command)

    @property
    def client(self) -> Any:
        return _Reads(self, self._real_client())

    def _real_client(self) -> Any:
        if "_client" not in self.__dict__:
            self._client = self._create_client(**self.connparams)
        return self._client

    def noting_outages(self, read: Callable[..., Any]) -> Callable[..., Any]:
        def noting(*args: Any, **kwargs: Any) -> Any:
            try:
                return read(*args, **kwargs)
            except UNWELL as error:
                self.outage = error
                raise

        return noting

    def ensure(self, fun: Callable[..., Any], args: Any, **_: Any) -> Any:
        return fun(*args)

    def on_task_call(self, producer: Any, task_id: str) -> dict[str, Any]:
        return {}

    def set(self, key: Any, value: Any, expires: Any = None, **_: Any) -> None:
        if len(value) > self._MAX_STR_VALUE_SIZE:
            raise BackendStoreError("value too large for Redis backend")
        self.record(reply(key, value, self.expires if expires is None else expires))

    def _store_result(
        self, task_id: str, result: Any, state: str, traceback: Any = None, request: Any = None, **_: Any
    ) -> Any:
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = task_id
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def on_chord_part_return(self, request: Any, state: str, result: Any, propagate: Any = None, **kwargs: Any) -> None:
        if self.starting:
            super().on_chord_part_return(request, state, result, propagate, **kwargs)
            return
        member, group = request.id, request.group
        if not member or not group:
            return
        key, name = self.queue
        about = {
            "id": member,
            "task": getattr(request, "task", None),
            "group": group,
            "group_index": request.group_index,
            "chord": request.chord,
            "root_id": request.root_id,
            "parent_id": request.parent_id,
        }
        self.record(
            chord_part(
                self.keys_of_chord(group),
                member=member,
                result=self.encode([1, member, state, self.encode_result(result, state)]),
                ordered=bool(self._chord_zset),
                score="+inf" if request.group_index is None else request.group_index,
                expires_seconds=self.chord_expires or 0,
                group_expires_seconds=self._chord_result_expires,
                token=f"{member}:chord",
                queue=key,
                start=start_of_chord(f"{member}:chord", about, name),
            )
        )

    def keys_of_chord(self, group: str) -> ChordKeys:
        key = self.get_key_for_group
        return ChordKeys(
            results=key(group, ".j"),
            added=key(group, ".t"),
            size=key(group, ".s"),
            counted=key(group, ".d"),
            group=key(group),
            claim=key(group, ".c"),
        )

    # What `super().on_chord_part_return` asks when a chord is started: every part is there, and the claim is ours.

    @property
    def _chord_part_return_script(self) -> Callable[..., Any]:
        def count(keys: Any, **_: Any) -> tuple[int, Any, Any, int]:
            added, size = self._real_client().mget(keys[1], keys[2])
            return int(size or 0) + int(added or 0), added, size, 1

        return count

    @property
    def _chord_claim_extend_script(self) -> Callable[..., int]:
        return lambda **_: 1

    @property
    def _chord_cleanup_script(self) -> Callable[..., int]:
        def clean(keys: Any, args: Any, **_: Any) -> int:
            claim, *rest = keys
            for key in rest:
                self.record(["DEL", key])
            self.record(["SET", claim, "done", "EX", math.ceil(args[1])])
            return 1

        return clean
