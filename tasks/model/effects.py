"""What a commit writes, as values. `celery_partitions.store.commands` alone makes Redis commands of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from celery_partitions.model.items import DeadLetterItem, Delayed
from celery_partitions.model.sinks import ListSink, StreamSink


class Hop(msgspec.Struct, frozen=True, gc=False):
    """An output that is a message to a stage under another key."""

    partition: int
    raw: bytes


class Timer(msgspec.Struct, frozen=True, gc=False):
    """A message that a stage sends itself, to come at a time (seconds since the epoch)."""

    due: float
    raw: bytes


class Push(msgspec.Struct, frozen=True, gc=False):
    """A message on a Celery queue, named as Celery names it."""

    queue: str
    raw: bytes


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An output that is an element of something else in Redis."""

    sink: StreamSink | ListSink
    message_id: str
    key: str
    payload: bytes


Emission = Hop | Timer | Push | Delivery


class PutStates(msgspec.Struct, frozen=True, gc=False):
    """New states of one computation: key → bytes."""

    computation: str
    states: Mapping[str, bytes]


class Forward(msgspec.Struct, frozen=True, gc=False):
    """Messages for another partition, in order."""

    partition: int
    raws: Sequence[bytes]


class Mail(msgspec.Struct, frozen=True, gc=False):
    """Messages that wait for a parked key, oldest first."""

    key: str
    raws: Sequence[bytes]


class Delay(msgspec.Struct, frozen=True, gc=False):
    """Messages that are due later."""

    messages: Sequence[Delayed]


class Emit(msgspec.Struct, frozen=True, gc=False):
    """Outputs, in order. `first_number`: the number of the commit's next delayed message."""

    outputs: Sequence[Emission]
    first_number: int


class ParkedKeyRecord(msgspec.Struct, omit_defaults=True):
    """A parked key: when its next try is due, which try that is, and why. The failed message is its mailbox's oldest."""

    #: Server's seconds; None: held until an operator acts.
    due: float | None
    attempt: int
    error: str = ""
    trace: str = ""
    #: The dead letter that tells of the failed message, once its retries are used up.
    dead_letter: str | None = None
    message_id: str | None = None
    task: str | None = None
    #: Server's seconds when the failed message failed first.
    since: float = 0.0


class PutParkedKey(msgspec.Struct, frozen=True, gc=False):
    """A key is parked, or stays parked in another way."""

    key: str
    record: ParkedKeyRecord


class Unpark(msgspec.Struct, frozen=True, gc=False):
    """A key is no longer parked. Goes with the commit that empties its mailbox."""

    key: str


class AddDeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A message was given up. `in_place`: it keeps its place, and its key waits."""

    dead_letter_id: str
    item: DeadLetterItem
    attempts: int
    in_place: bool = False


class DropDeadLetter(msgspec.Struct, frozen=True, gc=False):
    """The message of this dead letter has left its place."""

    dead_letter_id: str


class Pause(msgspec.Struct, frozen=True, gc=False):
    """The partition takes nothing until an operator resumes it."""


class RememberIds(msgspec.Struct, frozen=True, gc=False):
    """Message ids of a computation that drops duplicates. `begins`: a new young set; `replaces`: the young set becomes the old one."""

    computation: str
    ids: Sequence[str]
    window_seconds: float
    begins: bool
    replaces: bool


class EndIsolation(msgspec.Struct, frozen=True, gc=False):
    """The notes of messages that were run with a note go. `left`: how many suspects there are still; None: unchanged."""

    notes: Sequence[str]
    left: int | None


class Count(msgspec.Struct, frozen=True, gc=False):
    """The partition's counters grow."""

    counts: Mapping[str, int]


class Reply(msgspec.Struct, frozen=True, gc=False):
    """A Celery result: stored for a time (seconds; None or 0: for ever) and published, unless a success is stored already."""

    key: bytes
    meta: bytes | str
    seconds: int | None


class SetResultKey(msgspec.Struct, frozen=True, gc=False):
    """A key of Celery's result backend gets a value, for a time (seconds; None or 0: for ever)."""

    key: bytes | str
    value: Any
    seconds: int | None


class DeleteResultKeys(msgspec.Struct, frozen=True, gc=False):
    """Keys of Celery's result backend go."""

    keys: Sequence[bytes | str]


class FollowUp(msgspec.Struct, frozen=True, gc=False):
    """The message that has a worker send what follows another message. It goes to the head of the partition's own queue."""

    raw: bytes


class Requeue(msgspec.Struct, frozen=True, gc=False):
    """A message that goes to the end of the partition's own queue again."""

    raw: bytes


#: What goes with an outcome beside what its step decided: results, what follows, and what plain tasks ask for.
MoreEffects = Push | Reply | SetResultKey | DeleteResultKeys | FollowUp | Requeue
#: All that a commit writes.
Effect = (
    PutStates
    | Forward
    | Mail
    | Delay
    | Emit
    | PutParkedKey
    | Unpark
    | AddDeadLetter
    | DropDeadLetter
    | Pause
    | RememberIds
    | EndIsolation
    | Count
    | MoreEffects
)
