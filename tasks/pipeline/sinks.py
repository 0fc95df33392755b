"""Where a pipeline's outputs go: the sinks as you declare them. The step knows them as `celery_partitions.model.sinks`.

Outputs are written to Redis in the commit that removes the message that caused them: a message on a Celery queue, an entry of a stream, an
element of a list. That is exactly once. Anything outside this Redis (a TCP peer, a file, a function's effects) is served by the process
`celery -A APP partitions sink NAME`, from a queue of its own, in order per key, at least once.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from base64 import b64encode
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.message_codec import write_message
from celery_partitions.model.sinks import ListSink, QueueSink, Sink, StreamSink

#: Makes the bytes or text to send from an output; None sends nothing.
Encoder = Callable[[Any], bytes | str | None]


class SinkConfig(ABC):
    """Base class of the sinks that `to_sink` accepts, besides tasks, computations and functions."""

    #: Whether `partitions sink NAME` delivers its outputs.
    has_process: ClassVar[bool] = True

    @property
    @abstractmethod
    def sink_name(self) -> str:
        """The name of the sink, for `partitions sink NAME` and for the test kit."""

    @abstractmethod
    def sink(self) -> Sink:
        """The sink in the form that the step uses."""


@dataclass(frozen=True, slots=True)
class TaskSink(SinkConfig):
    """A plain Celery task that gets the output as its only argument. The commit pushes its message.

    The message is in the task's queue exactly once. From there Celery's rules apply. `queue`: the name of a Celery queue; None: where
    the app's routes send the task.
    """

    has_process: ClassVar[bool] = False

    task: str
    queue: str | None = None

    @property
    def sink_name(self) -> str:
        return self.task

    def sink(self) -> Sink:
        return QueueSink(self.task, self.task, write_message, self.queue)


@dataclass(frozen=True, slots=True, eq=False)
class ComputationSink:
    """A computation that is declared with key=. The output is sent to it as a message, exactly once, in the order of this stage's key."""

    computation: Computation

    @property
    def sink_name(self) -> str:
        return self.computation.name


@dataclass(frozen=True, slots=True)
class RedisStream(SinkConfig):
    """A Redis stream on the broker's server: `XADD` in the commit, exactly once.

    An entry has the fields `message` (what the encoder gives; JSON without one), `key` and `id`. `maxlen`: older entries than about so
    many are let go. Raises `DeclarationError`.
    """

    has_process: ClassVar[bool] = False

    stream: str
    maxlen: int | None = None
    encoder: Encoder | None = None

    def __post_init__(self) -> None:
        if self.maxlen is not None and (type(self.maxlen) is not int or self.maxlen < 1):
            raise DeclarationError(f"RedisStream({self.stream!r}): maxlen must be an integer above zero, not {self.maxlen!r:.40}")

    @property
    def sink_name(self) -> str:
        return self.stream

    def sink(self) -> Sink:
        return StreamSink(self.stream, _bytes_of(self.encoder), self.stream, self.maxlen)


@dataclass(frozen=True, slots=True)
class RedisList(SinkConfig):
    """A Redis list on the broker's server: `LPUSH` in the commit, exactly once. The right end is the oldest."""

    has_process: ClassVar[bool] = False

    list: str
    encoder: Encoder | None = None

    @property
    def sink_name(self) -> str:
        return self.list

    def sink(self) -> Sink:
        return ListSink(self.list, _bytes_of(self.encoder), self.list)


@dataclass(frozen=True, slots=True)
class CallableSink(SinkConfig):
    """A function that the sink's process calls with the output, and with a `Context` if it takes a second parameter.

    It is called at least once for each output, in order per key. `context.message_id` is the same in each repeated call, so that a receiver can
    drop duplicates. If the function raises, the failure policy applies: the key waits, and the call is retried.
    """

    function: Callable[..., Any]
    name: str | None = None

    @property
    def sink_name(self) -> str:
        return self.name or str(getattr(self.function, "__name__", type(self.function).__name__))

    def sink(self) -> Sink:
        return QueueSink(self.sink_name, self.sink_name, None, has_process=True)


@dataclass(frozen=True, slots=True)
class TCPSinkConfig(SinkConfig):
    """Connects to a host and port and writes what the encoder returns, unchanged (bytes or text; None sends nothing).

    The encoder runs in the partition worker. Delivery is at least once, in order per key: after a broken connection the sink reconnects
    and writes again what it wrote since the last commit.
    """

    host: str
    port: int
    encoder: Encoder
    name: str | None = None

    @property
    def sink_name(self) -> str:
        return self.name or f"{self.host}:{self.port}"

    def sink(self) -> Sink:
        return QueueSink(self.sink_name, self.sink_name, _quoted(_bytes_of(self.encoder)), has_process=True)


@dataclass(frozen=True, slots=True)
class FileSink(SinkConfig):
    """Appends lines to a file: what the encoder returns, or JSON without an encoder. Delivery is at least once, in order per key. Lines are
    flushed to the disk before the commit."""

    path: str | Path
    encoder: Encoder | None = None
    name: str | None = None

    @property
    def sink_name(self) -> str:
        return self.name or str(self.path)

    def sink(self) -> Sink:
        return QueueSink(self.sink_name, self.sink_name, _quoted(_bytes_of(self.encoder)), has_process=True)


@dataclass(frozen=True, slots=True)
class StdoutSink(SinkConfig):
    """Writes lines to the standard output of the sink's process, at least once, in order per key."""

    encoder: Encoder | None = None
    name: str = "stdout"

    @property
    def sink_name(self) -> str:
        return self.name

    def sink(self) -> Sink:
        return QueueSink(self.name, self.name, _quoted(_bytes_of(self.encoder)), has_process=True)


def sink_config(given: Any) -> SinkConfig | ComputationSink:
    """What `to_sink` was given, as a config. Raises `DeclarationError`."""
    if isinstance(given, SinkConfig):
        return given
    declared = getattr(given, "computation", None)
    if isinstance(declared, Computation):
        if declared.role == "task":
            return ComputationSink(declared)
        raise DeclarationError(f"to_sink({declared.name!r}): a computation without a key= is a stage; give it to to()")
    name = getattr(given, "name", None)
    if isinstance(name, str) and callable(getattr(given, "apply_async", None)):
        return TaskSink(name)
    if callable(given) and not isinstance(given, type):
        return CallableSink(given)
    raise DeclarationError(
        f"to_sink() wants a Celery task, a function, or one of TaskSink, RedisStream, RedisList, TCPSinkConfig, FileSink, StdoutSink; not {given!r:.80}"
    )


def _bytes_of(encoder: Encoder | None) -> Callable[[Any], bytes | None]:
    """The bytes that go out for an output."""
    if encoder is None:
        return write_message

    def encode(value: Any) -> bytes | None:
        made: Any = encoder(value)
        if made is None or isinstance(made, bytes):
            return made
        if isinstance(made, str):
            return made.encode()
        if isinstance(made, bytearray | memoryview):
            return bytes(made)
        raise TypeError(f"an encoder must return bytes, text or None, not {type(made).__name__}")

    return encode


def _quoted(encode: Callable[[Any], bytes | None]) -> Callable[[Any], bytes | None]:
    """Bytes in the form that a message holds them: base64 in quotes."""

    def quoted(value: Any) -> bytes | None:
        made = encode(value)
        return None if made is None else b'"' + b64encode(made) + b'"'

    return quoted
