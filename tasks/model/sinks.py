"""Where a pipeline's outputs leave to, as the step knows it: a name, an encoder, and the place in Redis. Values only."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

#: From an output to its bytes, in the step, at the moment it is returned; None sends nothing. What it raises is a failure of the
#: message, by the policy of the stage that returned it.
Encode = Callable[[Any], bytes | None]


@dataclass(frozen=True, slots=True, eq=False)
class QueueSink:
    """A Celery queue: the output is the one argument of a task. `encode` gives it as JSON."""

    name: str
    task: str
    #: None: the value as it is, in any form that a message has for it (`celery_partitions.model.values`).
    encode: Encode | None
    #: As Celery names it; None: where the app's routes put the task.
    queue: str | None = None
    #: Its queue is that of a group of its own, from which the process `partitions sink NAME` delivers.
    has_process: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class StreamSink:
    """A Redis stream: an entry with the fields `message`, `key` and `id`."""

    name: str
    encode: Encode
    stream: str
    #: Older entries than about so many are let go; None: all are kept.
    maxlen: int | None = None


@dataclass(frozen=True, slots=True, eq=False)
class ListSink:
    """A Redis list: the bytes, pushed on the left, so that the right end is the oldest."""

    name: str
    encode: Encode
    list: str


Sink = QueueSink | StreamSink | ListSink
