"""What a commit writes, as values. Only `celery_partitions.store.commands` converts them to Redis commands."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import msgspec

from celery_partitions.model.items import DeadLetterItem, Delayed
from celery_partitions.model.own_lines import key_and_computation
from celery_partitions.model.policy import Holds
from celery_partitions.model.sinks import ListSink, StreamSink


class Hop(msgspec.Struct, frozen=True, gc=False):
    """An output: a message to a stage under another key."""

    partition: int
    raw: bytes


class Timer(msgspec.Struct, frozen=True, gc=False):
    """A message that a stage sends to itself, due at a time (seconds since the epoch)."""

    due: float
    raw: bytes


class Alarm(msgspec.Struct, frozen=True, gc=False):
    """Wakes the partition for a named timer (`celery_partitions.model.timers`). A later one for the same timer and key replaces it."""

    #: Milliseconds since the epoch, server clock.
    due: int
    #: Its member of the sorted set.
    raw: bytes


class Push(msgspec.Struct, frozen=True, gc=False):
    """A message to a Celery queue, by the queue's name in Celery."""

    queue: str
    raw: bytes


class Delivery(msgspec.Struct, frozen=True, gc=False):
    """An output: an entry of a Redis stream, or an element of a Redis list."""

    sink: StreamSink | ListSink
    message_id: str
    key: str
    payload: bytes


Emission = Hop | Timer | Alarm | Push | Delivery


class PutStates(msgspec.Struct, frozen=True, gc=False):
    """New records of one computation: key → bytes; empty: the record is deleted. `version`: of the states, if it is above 1."""

    computation: str
    states: Mapping[str, bytes]
    version: int = 0


class Forward(msgspec.Struct, frozen=True, gc=False):
    """Messages for another partition, in order."""

    partition: int
    raws: Sequence[bytes]
    #: During a resize: they were sent for the former number of partitions.
    into_inbox: bool = False


class Mail(msgspec.Struct, frozen=True, gc=False):
    """Messages that wait for a parked key, oldest first."""

    key: str
    raws: Sequence[bytes]


class TakeFromMailbox(msgspec.Struct, frozen=True, gc=False):
    """The oldest messages of a key's mailbox are done: remove them. The commit is refused if others are there."""

    key: str
    #: Oldest first; at least one.
    raws: Sequence[bytes]


class CountRunning(msgspec.Struct, frozen=True, gc=False):
    """How many parked keys wait only for their turn after the commit."""

    count: int


class Delay(msgspec.Struct, frozen=True, gc=False):
    """Messages that become due later."""

    messages: Sequence[Delayed]


class Emit(msgspec.Struct, frozen=True, gc=False):
    """Outputs, in order. `first_number`: the number of the commit's next delayed message."""

    outputs: Sequence[Emission]
    first_number: int


#: Why a key's messages wait in its mailbox. `retry`, `hold`: a call failed. `running`: a call was in flight when its batch was committed, or
#: the next message of such a key has not started yet. `unknown-task`, `unreadable-state`: no call failed; the messages wait until a worker can
#: process them. `rate`: the next call waits for its rate limit. `gather`: a batch computation waits for more messages. `ready`: the key has so
#: much work that it takes turns with the others.
WhyParked = Literal["retry", "hold", "running", "unknown-task", "unreadable-state", "rate", "gather", "ready"]
#: Reasons of keys that wait for their turn: nothing has gone wrong.
TURN_REASONS: Final = ("rate", "gather", "ready")

RUNNING: Final = "running"
READY: Final = "ready"


class ParkedKey(msgspec.Struct, omit_defaults=True):
    """A parked key: when its next try is due, the number of that try, and the error. The message of that try is the oldest in its mailbox."""

    #: Seconds since the epoch, server clock. None: the key waits for an operator.
    due: float | None
    attempt: int
    error: str = ""
    trace: str = ""
    #: The id of the failed message's dead letter, after its last retry.
    dead_letter: str | None = None
    message_id: str | None = None
    task: str | None = None
    #: When the message failed for the first time, or when its key left the queue (seconds since the epoch, server clock).
    since: float = 0.0
    #: "": parked after a failure.
    reason: Literal["", "running", "unknown-task", "unreadable-state", "rate", "gather", "ready"] = ""
    #: Of a batch computation: how many of its messages the next call gets, and how many are left of a batch that is being halved. 0: no batch
    #: has failed (`model/gathering.py`).
    size: int = 0
    suspects: int = 0

    #: Where it was found (`admin/parked_keys.py`). Redis does not store these: the record is a field of its key, in its partition's hash.
    #: `key`: or the name of an own line (`model/own_lines.py`), or of a task's line (`model/task_lines.py`), which `ingress` can have too.
    key: str = ""
    partition: int | Literal["ingress"] = "ingress"
    #: Messages in its mailbox, including the one that failed or runs.
    waiting: int = 0

    @property
    def why(self) -> WhyParked:
        """Why the key waits."""
        return self.reason or ("hold" if self.due is None else "retry")

    @property
    def of_key(self) -> str:
        """The key whose messages wait. For a task's line: its name."""
        return key_and_computation(self.key)[0]

    @property
    def holds(self) -> Holds:
        """Whether all messages of the key wait, or only those of one computation."""
        return "key" if key_and_computation(self.key)[1] is None else "computation"

    @property
    def waits_its_turn(self) -> bool:
        """Whether nothing has gone wrong: a call is in flight, or will start when it is the key's turn."""
        return self.reason == RUNNING or self.reason in TURN_REASONS

    @property
    def waits_for_code(self) -> bool:
        """Whether its messages wait for a worker that knows their task, or can read the key's state."""
        return self.reason in ("unknown-task", "unreadable-state")


class PutParkedKey(msgspec.Struct, frozen=True, gc=False):
    """Park a key, or update a parked key's record."""

    key: str
    parked: ParkedKey


class Unpark(msgspec.Struct, frozen=True, gc=False):
    """Unpark a key. Belongs to the commit that empties its mailbox."""

    key: str


class AddDeadLetter(msgspec.Struct, frozen=True, gc=False):
    """A message was given up. `in_place`: it stays first in its key's mailbox, and the key stays parked."""

    dead_letter_id: str
    item: DeadLetterItem
    attempts: int
    in_place: bool = False


class DropDeadLetter(msgspec.Struct, frozen=True, gc=False):
    """Remove a dead letter, because its message has left the mailbox."""

    dead_letter_id: str


class Pause(msgspec.Struct, frozen=True, gc=False):
    """Pause the partition until an operator resumes it."""


class RememberIds(msgspec.Struct, frozen=True, gc=False):
    """Remember message ids of a computation with deduplication. `begins`: start a new young set; `replaces`: the young set becomes the old
    one."""

    computation: str
    ids: Sequence[str]
    window_seconds: float
    begins: bool
    replaces: bool


class EndIsolation(msgspec.Struct, frozen=True, gc=False):
    """Remove the notes of messages that ran in isolation. `left`: the number of messages still to isolate; None: unchanged."""

    notes: Sequence[str]
    left: int | None


class Count(msgspec.Struct, frozen=True, gc=False):
    """Increase the partition's counters."""

    counts: Mapping[str, int]


class AddToTimelines(msgspec.Struct, frozen=True, gc=False):
    """Add what the commit changes to the keys' timelines (`model/timeline.py`): key → JSON. Older changes make room: at most `max_bytes` in the
    partition, none older than `seconds`."""

    changes: Mapping[str, bytes]
    max_bytes: int
    seconds: float


class Reply(msgspec.Struct, frozen=True, gc=False):
    """Store a Celery result for some seconds (None or 0: forever) and publish it, unless a success is stored already."""

    key: bytes
    meta: bytes | str
    seconds: int | None


class SetResultKey(msgspec.Struct, frozen=True, gc=False):
    """Set a key of Celery's result backend, for some seconds (None or 0: forever)."""

    key: bytes | str
    value: Any
    seconds: int | None


class DeleteResultKeys(msgspec.Struct, frozen=True, gc=False):
    """Delete keys of Celery's result backend."""

    keys: Sequence[bytes | str]


class FollowUp(msgspec.Struct, frozen=True, gc=False):
    """A message that makes a worker send what follows another message. It goes to the front of the partition's own queue."""

    raw: bytes


class Requeue(msgspec.Struct, frozen=True, gc=False):
    """Put a message at the end of the partition's own queue again."""

    raw: bytes


#: Effects that are added to a step's own: results, follow-ups, and the effects of plain tasks.
MoreEffects = Push | Reply | SetResultKey | DeleteResultKeys | FollowUp | Requeue
#: Everything that a commit can write.
Effect = (
    PutStates
    | Forward
    | Mail
    | TakeFromMailbox
    | CountRunning
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
    | AddToTimelines
    | MoreEffects
)
