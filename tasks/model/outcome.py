"""What a step is given and what it decides, as values: states in memory, failures, keys that are to wait, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import DeadLetterItem, Delayed, PlainTask, Skipped, Work
from celery_partitions.model.sinks import ListSink, StreamSink


class Slot(msgspec.Struct, gc=False):
    """A key's state in a worker's memory: the object, and its bytes as Redis has them (None: not yet there)."""

    state: Any
    stored: bytes | None


class Unreadable(msgspec.Struct, frozen=True):
    """A key's state that can't be read: its messages become dead letters, and it stays as it is."""

    error: str


#: States by computation name, then key. The step reads it; the caller fills it and, after the commit, keeps it.
States = Mapping[str, Mapping[str, Slot | Unreadable]]


@dataclass(frozen=True, slots=True)
class Pickling:
    """How a state object becomes bytes and back, for one computation and key (signed, in the store's codec)."""

    dump: Callable[[Computation, str, Any], bytes]
    load: Callable[[Computation, str, bytes], Any]
    #: A value for the message of an id to a task, always signed. Raises `StateError` when there is no signing key.
    dump_value: Callable[[str, str, Any], bytes]
    #: The value back, of the message of an id to a computation. Raises `StateError`, and unpickles nothing that is not signed.
    load_value: Callable[[Computation, str, bytes], Any]


class Hop(msgspec.Struct, gc=False):
    """An output that is a message to a stage under another key."""

    partition: int
    raw: bytes


class Timer(msgspec.Struct, gc=False):
    """A message that a stage sends itself, to come at a time (seconds since the epoch)."""

    due: float
    raw: bytes


class Push(msgspec.Struct, gc=False):
    """An output that is a message on a Celery queue, named as Celery names it."""

    queue: str
    raw: bytes


class Delivery(msgspec.Struct, gc=False):
    """An output that is an element of something else in Redis."""

    sink: StreamSink | ListSink
    message_id: str
    key: str
    payload: bytes


Emission = Hop | Timer | Push | Delivery


class Reply(msgspec.Struct, gc=False):
    """A Celery result: stored for a time (seconds; None or 0: for ever) and published, unless a success is stored already."""

    key: bytes
    meta: bytes | str
    seconds: int | None


class SetResultKey(msgspec.Struct, gc=False):
    """A key of Celery's result backend gets a value, for a time (seconds; None or 0: for ever)."""

    key: bytes | str
    value: Any
    seconds: int | None


class DeleteResultKeys(msgspec.Struct, gc=False):
    """Keys of Celery's result backend go."""

    keys: list[bytes | str]


class FollowUp(msgspec.Struct, gc=False):
    """The message that has a worker send what follows another message. It goes to the head of the partition's own queue."""

    raw: bytes


class Requeue(msgspec.Struct, gc=False):
    """A message that goes to the end of the partition's own queue again."""

    raw: bytes


#: What a commit writes beside what a step decided: results, what follows, and what plain tasks ask for.
Effect = Push | Reply | SetResultKey | DeleteResultKeys | FollowUp | Requeue


@dataclass(frozen=True, slots=True)
class Failure:
    """A try that raised; `stage`: the computation in which."""

    item: Work
    error: str
    trace: str
    attempt: int
    stage: str = ""
    #: What was raised, for whoever waits for the message's result.
    exception: BaseException | None = None


class Park(NamedTuple):
    """A key that is to wait."""

    failure: Failure
    #: Until the next try; None: until an operator acts.
    seconds: float | None
    #: The retries are used up: a dead letter tells of the message, which keeps its place.
    used_up: bool


@dataclass(slots=True)
class Outcome:
    """What one step decided; the commit writes it, all or nothing."""

    #: So many messages, from the oldest on, leave their queue or mailbox.
    taken: int = 0
    #: New state bytes by computation name, then key; only what changed.
    states: dict[str, dict[str, bytes]] = field(default_factory=dict)
    #: Raw messages for other partitions, in order.
    forwarded: dict[int, list[bytes]] = field(default_factory=dict)
    delayed: list[Delayed] = field(default_factory=list)
    dead: list[tuple[DeadLetterItem, int]] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    #: Messages to append to the mailbox of a parked key, oldest first.
    mailed: dict[str, list[bytes]] = field(default_factory=dict)
    #: Keys to park, or to keep parked.
    parked: dict[str, Park] = field(default_factory=dict)
    #: The partition is to pause, until an operator resumes it.
    pause: bool = False
    #: Work that was applied, with the moment it began.
    done: list[Work] = field(default_factory=list)
    began: list[float] = field(default_factory=list)
    failures: list[Failure] = field(default_factory=list)
    #: What the messages in `done` put out, in order.
    emitted: list[Emission] = field(default_factory=list)
    ended: float = 0.0
    #: Some of `done` are `ReplyRequest`: they get replies.
    answered: bool = False
    #: What the commit writes beside the fields above, in this order.
    effects: list[Effect] = field(default_factory=list)
    #: The next message is a plain Celery task: run it, then go on.
    plain_task: PlainTask | None = None
