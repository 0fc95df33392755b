"""The sinks of pipelines, as the step sees them: a name, an encoder, and the target in Redis. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: Converts an output to bytes, or to None to send nothing. Called in the step, immediately after the output was returned. If it raises, the
#: message fails, and the policy of the stage that returned the output applies.
Encode = Callable[[Any], bytes | None]


@dataclass(frozen=True, slots=True, eq=False)
class QueueSink:
    """A Celery queue. The output becomes the only argument of a task. `encode` returns it as JSON."""

    name: str
    task: str
    #: None: the value is sent as JSON or as a signed pickle (`celery_partitions.model.values`).
    encode: Encode | None
    #: The queue's name in Celery. None: the app's routes decide.
    queue: str | None = None
    #: The queue belongs to the sink's own group, from which the process `partitions sink NAME` delivers.
    has_process: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StreamSink:
    """A Redis stream: an entry with the fields `message`, `key` and `id`."""

    name: str
    encode: Encode
    stream: str
    #: The approximate maximum number of entries; older ones are removed. None: all are kept.
    maxlen: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ListSink:
    """A Redis list of the encoded outputs. They are pushed on the left, so the rightmost is the oldest."""

    name: str
    encode: Encode
    list: str


Sink = QueueSink | StreamSink | ListSink
