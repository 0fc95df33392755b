"""Records what Celery sends and stores while a follow-up runs, so that the commit writes it instead.

Celery's own code runs unchanged. Messages are published to a channel that records them, and the client of Celery's Redis result
backend records writes. Reads go to the server. Outside a recording, both pass everything through.
"""

from __future__ import annotations

import math
from bisect import bisect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from celery import Celery
from celery.backends.redis import CHORD_CLAIM_EXTEND_LUA, CHORD_CLEANUP_LUA, CHORD_PART_RETURN_LUA
from kombu.connection import Connection
from kombu.entity import Queue
from kombu.transport import virtual
from kombu.utils.encoding import bytes_to_str
from kombu.utils.json import dumps

from celery_partitions.model.effects import DeleteResultKeys, MoreEffects, Push, Reply, SetResultKey
from celery_partitions.model.errors import MessageError, SetupError
from celery_partitions.model.outbox import Outbox
from celery_partitions.runtime.queue_limit import looks_for_room
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names

#: How much one follow-up may send and store. Several of this size fit into a commit.
MAX_FOLLOW_UP_BYTES = 64_000_000
#: kombu's defaults, unless the broker's options set others.
PRIORITY_STEPS = [0, 3, 6, 9]
SEPARATOR = "\x06\x16"
#: How long a chord stays claimed if Celery keeps its data forever.
CLAIM_SECONDS = 86_400


class Recording:
    """What one follow-up sends and stores. `token`: the same each time this follow-up runs."""

    #: Whether messages may go only to queues that the app declares. What follows a message is chosen by its sender, not by the app.
    is_restricted = True

    def __init__(self, token: str) -> None:
        self.token = token
        self.effects: list[MoreEffects] = []
        #: The error if the server did not answer a read. Celery may treat it as a failure of the task.
        self.outage: BaseException | None = None
        self._bytes = 0

    def add(self, effect: MoreEffects) -> None:
        """Record an effect. Raises `MessageError` if one message sends and stores more than `MAX_FOLLOW_UP_BYTES`."""
        self.effects.append(effect)
        words = (getattr(effect, name) for name in effect.__struct_fields__)
        self._bytes += sum(len(word) for word in words if isinstance(word, str | bytes))
        if self._bytes > MAX_FOLLOW_UP_BYTES:
            raise MessageError(
                f"what follows the message is larger than {MAX_FOLLOW_UP_BYTES:,} bytes. A chord's body is copied into each of its "
                "messages: make it smaller, or send it from a separate task",
                reason="too-large",
            )

    def stored(self, key: Any) -> Any:
        """A result recorded here, because Celery reads back what it has just written."""
        name = bytes_to_str(key)
        return next((one.meta for one in self.effects if isinstance(one, Reply) and bytes_to_str(one.key) == name), None)

    def reading(self, read: Callable[..., Any]) -> Callable[..., Any]:
        """Wrap a read so that an outage of the server is recorded."""

        def noting(*args: Any, **kwargs: Any) -> Any:
            try:
                return read(*args, **kwargs)
            except SERVER_ERRORS as error:
                self.outage = error
                raise

        return noting


class NotAQueue(Exception):
    """A computation sends to an exchange, which is not a part of a commit."""


class SendRecording(Recording):
    """Puts what a computation sends into its outbox."""

    is_restricted = False

    def __init__(self, outbox: Outbox) -> None:
        super().__init__("")
        self.outbox = outbox

    def add(self, effect: MoreEffects) -> None:
        assert isinstance(effect, Push)  # `Celery.send_task` stores nothing
        self.outbox.add(effect)


_current: ContextVar[Recording | None] = ContextVar("partitions_recording", default=None)


@contextmanager
def recorded(token: str) -> Iterator[Recording]:
    """Record Celery's messages and results in this block, in this thread. Raises an outage of the server at the end."""
    recording = Recording(token)
    with recorded_by(recording):
        yield recording
    if recording.outage is not None:
        raise recording.outage


@contextmanager
def recorded_by(recording: Recording) -> Iterator[None]:
    """Record Celery's messages in this block."""
    current, no_room = _current.set(recording), looks_for_room.set(False)
    try:
        yield
    finally:
        looks_for_room.reset(no_room)
        _current.reset(current)


class RecordingChannel(virtual.Channel):
    """The part of kombu's Redis channel that a producer uses, without Redis."""

    do_restore = False
    #: Whether a queue's name is the name of another Redis key of the group.
    is_taken: Callable[[str], bool]
    #: Whether what follows a message may go to a queue.
    is_allowed: Callable[[str], bool]

    def basic_publish(self, message: Any, exchange: str, routing_key: str, **kwargs: Any) -> None:
        recording = _current.get()
        if exchange and recording is not None and not recording.is_restricted:
            raise NotAQueue(exchange)
        if exchange:
            raise SetupError(
                f"what follows a computation cannot be sent to an exchange ({exchange!r}): route it with queue="
            )
        super().basic_publish(message, exchange, routing_key, **kwargs)

    def _put(self, queue: str, message: Any, **_: Any) -> None:
        recording = _current.get()
        assert recording is not None
        if self.is_taken(queue):
            what = "what follows a computation" if recording.is_restricted else "what a computation sends"
            raise SetupError(f"{what} cannot go to queue {queue!r:.80}: that name is reserved for the partitions")
        if recording.is_restricted and not self.is_allowed(queue):
            raise SetupError(
                f"what follows a computation would go to queue {queue!r:.80}, which the app does not declare. This is refused because anyone who "
                "can send a message could choose it. To allow it, name it in task_queues, task_routes or PARTITIONS_FOLLOW_UP_QUEUES"
            )
        task_id = message["headers"].get("id", "")  # protocol 1 has it in the body
        if not isinstance(task_id, str):
            # Celery would make a result object for it, which raises when it is deleted.
            raise MessageError(f"the id of a task must be text, not {str(task_id)!r:.80}", reason="follow-up-failed")
        options = self.connection.client.transport_options
        steps = options.get("priority_steps") or PRIORITY_STEPS
        step = steps[bisect(steps, int(message["properties"].get("priority") or 0)) - 1]
        name = f"{queue}{options.get('sep', SEPARATOR)}{step}" if step else queue
        recording.add(Push(name, dumps(message).encode()))

    def _queue_bind(self, *_: Any) -> None: ...

    def _new_queue(self, *_: Any, **__: Any) -> None: ...

    def _size(self, queue: str) -> int:
        return 0


class _RecordingTransport(virtual.Transport):
    Channel = RecordingChannel
    driver_type = "redis"


def known_queues(app: Celery, names: Names, more: Iterable[str] = ()) -> Callable[[str], bool]:
    """A function that says whether the app declares a queue: in task_queues, its default queue, its routes, the group's own queues,
    or `more` ("*": all).

    Call it before the first follow-up, because Celery adds every queue that it sends to to the app's queues.
    """
    known = {app.conf.task_default_queue, *app.amqp.queues, *more, *_queues_of_routes(app.conf.task_routes)}
    return lambda queue: "*" in known or queue in known or names.partition_of_queue(queue) is not None


def may_follow(app: Celery, names: Names, more: Iterable[str] = ()) -> Callable[[str], bool]:
    """Like `known_queues`, without names that the partitions' other keys have."""
    is_known = known_queues(app, names, more)
    return lambda queue: is_known(queue) and not names.is_no_queue(queue)


def _queues_of_routes(routes: Any) -> Iterator[str]:
    """The queues named in `task_routes`. Queues that a route function returns are not known."""
    match routes:
        case Queue():
            yield routes.name
        case Mapping():
            for name, route in routes.items():
                if isinstance(route, str):
                    if name == "queue" or not _is_destination(routes):
                        yield route
                else:
                    yield from _queues_of_routes(route)
        case list() | tuple():
            for route in routes:
                yield from _queues_of_routes(route)


def _is_destination(route: Mapping[str, Any]) -> bool:
    """Whether this is the destination of a route, not a table of routes."""
    return bool(route.keys() & {"queue", "exchange", "routing_key"})


def record_messages(app: Celery, names: Names, more_queues: Iterable[str] = ()) -> Any:
    """Send the app's messages to the active recording, if there is one. Call it once per app; repeating it is harmless.

    Returns a producer that connects to nothing, for sends that are recorded. `more_queues`: queues that are allowed in addition to those that the app declares.
    """
    send = app.amqp.send_task_message
    if hasattr(send, "recorder"):
        return send.recorder
    options = dict(app.conf.broker_transport_options or {})
    channel = Connection(transport=_RecordingTransport, transport_options=options).channel()
    channel.is_taken = names.is_no_queue
    channel.is_allowed = known_queues(app, names, more_queues)
    recorder = app.amqp.Producer(channel, auto_declare=False)

    def send_task_message(producer: Any, name: str, message: Any, **options: Any) -> Any:
        if _current.get() is None:
            return send(producer, name, message, **options)
        # No task-sent event: it cannot wait for the commit, and the message may never be sent.
        return send(recorder, name, message._replace(sent_event=None), **options)

    send_task_message.recorder = recorder  # type: ignore[attr-defined]
    app.amqp.send_task_message = send_task_message
    return recorder


def record_results(app: Celery) -> None:
    """Send writes of this thread's Redis result backend to the active recording, if there is one. Repeating it is harmless."""
    if not isinstance(app.backend.client, RecordingClient):
        app.backend.client = RecordingClient(app.backend.client)


class RecordingClient:
    """The part of the result server's client that Celery's backend uses."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def __getattr__(self, name: str) -> Any:
        found, recording = getattr(self._client, name), _current.get()
        return recording.reading(found) if recording is not None and callable(found) else found

    def get(self, key: Any) -> Any:
        recording = _current.get()
        found = None if recording is None else recording.stored(key)
        return self.__getattr__("get")(key) if found is None else found

    def mget(self, keys: Any) -> Any:
        found = self.__getattr__("mget")(keys)
        recording = _current.get()
        return found if recording is None else [recording.stored(key) or value for key, value in zip(keys, found, strict=True)]

    def set(self, key: Any, value: Any, ex: Any = None) -> Any:
        recording = _current.get()
        if recording is None:
            return self._client.set(key, value, ex=ex)
        return recording.add(SetResultKey(key, value, ex and math.ceil(ex)))

    def delete(self, *keys: Any) -> Any:
        recording = _current.get()
        return self._client.delete(*keys) if recording is None else recording.add(DeleteResultKeys(list(keys)))

    def pipeline(self, *args: Any, **kwargs: Any) -> Any:
        pipe, recording = self._client.pipeline(*args, **kwargs), _current.get()
        return pipe if recording is None else _RecordingPipeline(pipe, recording)

    def register_script(self, text: str) -> Any:
        return _RecordingScript(text, self._client)


class _RecordingPipeline:
    """Records the pipeline that stores and publishes a result. Other pipelines only read."""

    def __init__(self, pipe: Any, recording: Recording) -> None:
        self._pipe, self._recording = pipe, recording

    def __enter__(self) -> _RecordingPipeline:
        return self

    def __exit__(self, *_: Any) -> None:
        self._pipe.reset()

    def setex(self, key: Any, seconds: int, value: Any) -> None:
        self._recording.add(Reply(key, value, seconds))

    def set(self, key: Any, value: Any) -> None:
        self._recording.add(Reply(key, value, None))

    def publish(self, key: Any, value: Any) -> None:
        """Does nothing: the commit publishes each reply that it stores."""

    def execute(self) -> Any:
        return self._recording.reading(self._pipe.execute)()

    def __getattr__(self, name: str) -> Any:
        read = getattr(self._pipe, name)

        def and_this(*args: Any, **kwargs: Any) -> _RecordingPipeline:
            read(*args, **kwargs)
            return self

        return and_this


class _RecordingScript:
    """Celery's scripts of chords.

    A part is counted immediately: counting it again changes nothing. Celery's worker that counts the last part claims the chord with
    a random token. Here the token is the recording's, so that a follow-up that runs again finds its own claim. The commit that sends
    the body also deletes the chord's data.
    """

    def __init__(self, text: str, client: Any) -> None:
        self._text, self._script = text, client.register_script(text)

    def __call__(self, keys: Any, args: Any, client: RecordingClient) -> Any:
        server, recording = client._client, _current.get()
        if recording is None:
            return self._script(keys=keys, args=args, client=server)
        if self._text == CHORD_PART_RETURN_LUA:
            *part, claim_seconds, _ = args
            token = f"{recording.token}:{part[3]}"
            words = [*part, max(claim_seconds, part[4] or CLAIM_SECONDS), token]
            ready, added, size, claimed = recording.reading(self._script)(keys=keys, args=words, client=server)
            if not claimed and ready >= 0:
                claimed = int(bytes_to_str(client.get(keys[5])) == token)
            return ready, added, size, claimed
        if self._text == CHORD_CLAIM_EXTEND_LUA:
            return 1
        if self._text == CHORD_CLEANUP_LUA:
            claim, *rest = keys
            client.delete(*rest)
            client.set(claim, "done", ex=args[1])
            return 1
        raise SetupError("this version of celery-partitions does not support a chord script of this Celery version: install a supported Celery")
