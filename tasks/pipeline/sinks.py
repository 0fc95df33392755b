"""Where a pipeline's outputs go, as users say it, and as the step knows it (`celery_partitions.model.sinks`).

In the commit that consumed their cause outputs become elements in Redis: a message on a Celery queue, an entry of a stream, an
element of a list. That is exactly once. What lies outside this Redis (a TCP peer, a file, a function's effects) is reached by the
process `celery -A APP partitions sink NAME`, from a queue of its own, in order per key, at least once.
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
from celery_partitions.model.messages import write_message
from celery_partitions.model.sinks import ListSink, QueueSink, Sink, StreamSink

#: From an output to what goes out: bytes, text, or None for nothing.
Encoder = Callable[[Any], bytes | str | None]


class SinkConfig(ABC):
    """Base of what `to_sink` takes, beside tasks, computations and functions."""

    #: Whether `partitions sink NAME` delivers its outputs.
    has_process: ClassVar[bool] = True

    @property
    @abstractmethod
    def sink_name(self) -> str:
        """By which the sink's process, and its place in the test kit, are called."""

    @abstractmethod
    def sink(self) -> Sink:
        """As the step knows it."""


@dataclass(frozen=True, slots=True)
class TaskSink(SinkConfig):
    """A plain Celery task, called with the output as its one argument; its message is pushed in the commit.

    Exactly once into its queue; from there as Celery runs tasks. `queue`: as Celery names it; None: where the app's routes put it.
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
    """A computation with a key of its own: the output is a hop, a message to it, exactly once, in the order of this stage's key."""

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
            raise DeclarationError(f"RedisStream({self.stream!r}): maxlen= wants a whole number above zero, not {self.maxlen!r:.40}")

    @property
    def sink_name(self) -> str:
        return self.stream

    def sink(self) -> Sink:
        return StreamSink(self.stream, _bytes_of(self.encoder), self.stream, self.maxlen)


@dataclass(frozen=True, slots=True)
class RedisList(SinkConfig):
    """A Redis list on the broker's server: `LPUSH` in the commit, exactly once; the right end is the oldest."""

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
    """A function, called by the sink's process with the output, and with a `Context` when it takes a second parameter.

    At least once, in order per key; the context's message id is the same each time, so that a receiver can drop the second. What it
    raises follows the failure policy: its key waits and is tried again.
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
    """Connects to a host and port and writes what the encoder gives, as it is (bytes or text; None sends nothing).

    The encoder runs in the partition worker. At least once, in order per key: when the connection breaks it is made again, and what
    was written since the last commit is written once more.
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
    """Lines of a file: what the encoder gives, or JSON without one, and a line's end. At least once, in order per key; flushed to the
    disk before it counts as written."""

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
    """Lines on the standard output of the sink's process. At least once, in order per key."""

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
        raise TypeError(f"an encoder must give bytes, text or None, not {type(made).__name__}")

    return encode


def _quoted(encode: Callable[[Any], bytes | None]) -> Callable[[Any], bytes | None]:
    """Bytes as they stand in a message: base64 in quotes."""

    def quoted(value: Any) -> bytes | None:
        made = encode(value)
        return None if made is None else b'"' + b64encode(made) + b'"'

    return quoted
