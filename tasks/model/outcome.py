"""Values that a step receives and returns: states in memory, failures, keys to park, and the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Final, Literal, NamedTuple

import msgspec
from msgspec.structs import replace

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import (
    TURN_REASONS,
    AddDeadLetter,
    Count,
    Delay,
    Effect,
    Emission,
    Emit,
    Forward,
    Mail,
    MoreEffects,
    ParkedKey,
    Pause,
    PutParkedKey,
    PutStates,
)
from celery_partitions.model.errors import MigrationFailed
from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.items import DeadLetterItem, Delayed, PlainTask, Skipped, Work
from celery_partitions.model.timers import Entries

#: In place of a record's bytes: the key's record is deleted.
GONE: Final = b""


class Slot(msgspec.Struct, gc=False):
    """A key's record in a worker's memory: the state object, its bytes in Redis (None: not stored yet), and its timers."""

    state: Any
    stored: bytes | None
    #: The key's timers. None: never any.
    timers: Entries | None = None


class Unreadable(msgspec.Struct, frozen=True):
    """A key's state that can't be read. The key's messages become dead letters, and the stored state is kept."""

    error: str
    #: What a migration of an older state raised: the message counts as failed instead.
    failure: MigrationFailed | None = None


#: States by computation name, then key. The caller fills it, the step changes the objects, and after the commit the caller keeps it.
States = Mapping[str, Mapping[str, Slot | Unreadable]]


@dataclass(frozen=True, slots=True)
class Pickling:
    """Functions that convert states and values to bytes and back. The store's codec provides them, with signatures."""

    #: (computation, key, state, timers) → the record.
    dump: Callable[[Computation, str, Any, Entries | None], bytes]
    load: Callable[[Computation, str, bytes], Any]
    #: The timers in a record that `load` has read.
    timers: Callable[[bytes], Entries | None]
    #: (task, message id, value) → a signed pickle. Raises `StateError` without a signing key.
    dump_value: Callable[[str, str, Any], bytes]
    #: (computation, message id, bytes) → the value. Raises `StateError`, and never unpickles unsigned bytes.
    load_value: Callable[[Computation, str, bytes], Any]


@dataclass(frozen=True, slots=True)
class Failure:
    """An attempt that raised. `stage`: the name of the computation that raised."""

    item: Work
    error: str
    trace: str
    attempt: int
    stage: str = ""
    #: The exception, for the message's result.
    exception: BaseException | None = None
    #: Where it was raised. Kept until the failure is reported: frames keep the objects of the failed call alive.
    frames: TracebackType | None = None
    #: The other messages that a batch computation got in the same call, and how they are retried.
    others: tuple[Work, ...] = ()
    halving: Halving = NOT_HALVED
    #: Nobody knows which of them is at fault: the next calls get half of them.
    is_halved: bool = False

    @property
    def messages(self) -> tuple[Work, ...]:
        """All messages that failed together."""
        return (self.item, *self.others)

    def dead_letter_item(self) -> DeadLetterItem:
        """The dead letter for its message, which stays first in its key's mailbox."""
        item, headers = self.item, self.item.envelope.headers
        return DeadLetterItem(item.raw, "computation-failed", self.error, self.trace, headers.task, headers.id, item.key)


class Park(NamedTuple):
    """A key to park."""

    failure: Failure
    #: Seconds until the next try. None: until an operator acts.
    seconds: float | None
    #: No retries are left. A dead letter records the message, which stays in the mailbox.
    used_up: bool


class Waiting(NamedTuple):
    """A key, or a task's line, that waits until a worker can process its messages, or until it is their turn."""

    reason: Literal["unknown-task", "unreadable-state", "rate", "gather", "ready"]
    error: str
    task: str | None
    message_id: str | None
    #: The number of this try, and the seconds until the next one.
    attempt: int
    seconds: float
    #: Of a batch computation.
    halving: Halving = NOT_HALVED
    #: When the next try is due, if that is known (seconds since the epoch, server clock). Else the seconds count from the commit.
    due: float | None = None

    def parked(self, before: ParkedKey | None, now: float, wait_seconds: float) -> ParkedKey:
        """The record to write. `before`: the key's or line's record, if its first message is the same. `wait_seconds`: how long messages wait
        for a task or a state (PARTITIONS_DEPLOY_WAIT_SECONDS)."""
        if self.reason in TURN_REASONS:
            due, (size, suspects) = self.due or now + self.seconds, self.halving
            if before is not None and (before.error or before.dead_letter):  # a retry
                return replace(before, due=due, attempt=self.attempt, reason=self.reason, size=size, suspects=suspects)
            since = now if before is None or before.reason != self.reason else before.since
            return ParkedKey(
                due, self.attempt, message_id=self.message_id, task=self.task, since=since, reason=self.reason, size=size, suspects=suspects
            )
        since = before.since if before is not None and before.waits_for_code else now
        until = since + wait_seconds  # when they may have waited long enough
        due = min(now + self.seconds, until) if until > now else now + self.seconds
        return ParkedKey(
            due, self.attempt + 1, self.error, message_id=self.message_id, task=self.task, since=since, reason=self.reason
        )


class Outcome(msgspec.Struct):
    """What one step decided. The commit writes all of it or nothing."""

    #: The number of messages, from the oldest on, to remove from the queue or mailbox.
    taken: int = 0
    #: New state bytes by computation name, then key. Only changed states.
    states: dict[str, dict[str, bytes]] = msgspec.field(default_factory=dict)
    #: The versions of those states, by computation name, if they are above 1.
    versions: dict[str, int] = msgspec.field(default_factory=dict)
    #: Raw messages for other partitions, in order.
    forwarded: dict[int, list[bytes]] = msgspec.field(default_factory=dict)
    #: The same for messages that follow their key, which was here until a resize. They go into the inbox of the partition.
    followed: dict[int, list[bytes]] = msgspec.field(default_factory=dict)
    delayed: list[Delayed] = msgspec.field(default_factory=list)
    dead: list[tuple[DeadLetterItem, int]] = msgspec.field(default_factory=list)
    skipped: list[Skipped] = msgspec.field(default_factory=list)
    #: Messages to append to the mailbox of a parked key, oldest first.
    mailed: dict[str, list[bytes]] = msgspec.field(default_factory=dict)
    #: Keys to park, or to keep parked.
    parked: dict[str, Park] = msgspec.field(default_factory=dict)
    #: Keys and lines that begin to wait, or go on waiting.
    waiting: dict[str, Waiting] = msgspec.field(default_factory=dict)
    #: Pause the partition until an operator resumes it.
    pause: bool = False
    #: Work that was applied, and when each began.
    done: list[Work] = msgspec.field(default_factory=list)
    began: list[float] = msgspec.field(default_factory=list)
    failures: list[Failure] = msgspec.field(default_factory=list)
    #: The outputs of the messages in `done`, in order.
    emitted: list[Emission] = msgspec.field(default_factory=list)
    #: The same outputs, by the `id()` of the message's item. `outputs_of` reads them.
    outputs: list[Mapping[int, Sequence[Emission]]] = msgspec.field(default_factory=list)
    #: How many values of the messages in `done` came too late for their windows, and were dropped.
    late: int = 0
    #: How many values each stage got that ran in the step of a message's own computation. Attempts that failed count too.
    fused: dict[str, int] = msgspec.field(default_factory=dict)
    ended: float = 0.0
    #: When each of `done` ended, if they did not run one after the other.
    ends: list[float] = msgspec.field(default_factory=list)
    #: The computation of each call of a batch computation.
    together: list[Computation] = msgspec.field(default_factory=list)
    #: Whether some of `done` are `ReplyRequest`, which get replies.
    answered: bool = False
    #: Further effects of the commit, in this order.
    effects: list[MoreEffects] = msgspec.field(default_factory=list)
    #: It is one message that was applied: of what `absorb` adds, only states, outputs and times are set.
    is_short: bool = False
    #: Its outputs, as a share of the limits for one commit.
    share: float = 0.0
    #: The next message is a plain Celery task. The worker runs it, then continues.
    plain_task: PlainTask | None = None

    def forget_frames(self) -> None:
        """The failures are reported. Their frames refer to this outcome: without that, its messages are freed now, and not by a garbage
        collection, which is rare in a worker."""
        for failure in self.failures:
            object.__setattr__(failure, "frames", None)

    def absorb(self, one: Outcome) -> None:
        """Add what became of one message whose call ran outside the loop. Messages of a key must be added in their order. Does not change
        `taken`, which counts the messages of the queue."""
        for computation, states in one.states.items():
            self.states.setdefault(computation, {}).update(states)
        self.ends += [self.ended] * (len(self.done) - len(self.ends)) + (one.ends or [one.ended] * len(one.done))
        self.done += one.done
        self.began += one.began
        self.ended = max(self.ended, one.ended)
        if one.emitted or one.outputs:
            self.emitted += one.emitted
            self.outputs += one.outputs
        if one.versions:
            self.versions.update(one.versions)
        for stage, count in one.fused.items():
            self.fused[stage] = self.fused.get(stage, 0) + count
        if one.is_short:
            return
        for number, raws in one.forwarded.items():
            self.forwarded.setdefault(number, []).extend(raws)
        for number, raws in one.followed.items():
            self.followed.setdefault(number, []).extend(raws)
        self.delayed += one.delayed
        self.dead += one.dead
        self.skipped += one.skipped
        self.parked.update(one.parked)
        self.waiting.update(one.waiting)
        self.pause = self.pause or one.pause
        self.failures += one.failures
        self.together += one.together
        self.answered = self.answered or one.answered

    def absorb_short(self, several: Iterable[Outcome]) -> None:
        """`absorb` each of many that are short."""
        states, done, began, ends = self.states, self.done, self.began, self.ends
        ends += [self.ended] * (len(done) - len(ends))
        for one in several:
            for computation, changed in one.states.items():
                table = states.get(computation)
                if table is None:
                    states[computation] = dict(changed)
                else:
                    table.update(changed)
            done += one.done
            began += one.began
            ends.append(one.ended)
            if one.ended > self.ended:
                self.ended = one.ended
            if one.emitted or one.outputs:
                self.emitted += one.emitted
                self.outputs += one.outputs
            if one.versions:
                self.versions.update(one.versions)

    def outputs_of(self, work: Work) -> list[Emission]:
        """What one of the messages in `done` sent."""
        return [one for outputs in self.outputs for one in outputs.get(id(work), ())]

    def count_forwarded(self) -> int:
        return sum(map(len, self.forwarded.values())) + sum(map(len, self.followed.values()))

    def written(self, partition: str, commit_number: int, parked: Mapping[str, ParkedKey]) -> Iterator[Effect]:
        """The effects that the commit writes. `commit_number` is part of the dead letters' ids. `parked`: the records of the parked keys."""
        for computation, states in self.states.items():
            if states:
                yield PutStates(computation, states, self.versions.get(computation, 0))
        for number, raws in self.forwarded.items():
            yield Forward(number, raws)
        for number, raws in self.followed.items():
            yield Forward(number, raws, into_inbox=True)
        for key, raws in self.mailed.items():
            yield Mail(key, raws)
        if self.delayed:
            yield Delay(self.delayed)
        if self.emitted:
            yield Emit(self.emitted, len(self.delayed))
        for key, record in parked.items():
            yield PutParkedKey(key, record)
        for number, (item, attempts) in enumerate(self.dead):
            yield AddDeadLetter(f"{partition}-{commit_number}-{number}", item, attempts)
        for key, park in self.parked.items():
            dead_letter = parked[key].dead_letter
            if park.used_up and dead_letter is not None:
                yield AddDeadLetter(dead_letter, park.failure.dead_letter_item(), park.failure.attempt, in_place=True)
        if self.pause:
            yield Pause()
        yield from self.effects
        yield Count(
            {
                "processed": len(self.done),
                "emitted": len(self.emitted),
                "failed": len(self.failures),
                "dead": len(self.dead),
                "forwarded": self.count_forwarded(),
                "delayed": len(self.delayed),
                "late": self.late,
                "skipped": sum(one.why != "duplicate" for one in self.skipped),
                "deduplicated": sum(one.why == "duplicate" for one in self.skipped),
            }
        )
