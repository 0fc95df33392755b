"""What a step is given and what it decides, as values: states in memory, failures, keys that are to wait, the outcome."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import (
    AddDeadLetter,
    Count,
    Delay,
    Effect,
    Emission,
    Emit,
    Forward,
    Mail,
    MoreEffects,
    ParkedKeyRecord,
    Pause,
    PutParkedKey,
    PutStates,
)
from celery_partitions.model.items import DeadLetterItem, Delayed, PlainTask, Skipped, Work


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

    def dead_letter_item(self) -> DeadLetterItem:
        """Of its message, which keeps its place."""
        item, headers = self.item, self.item.envelope.headers
        return DeadLetterItem(item.raw, "computation-failed", self.error, self.trace, headers.task, headers.id, item.key)


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
    effects: list[MoreEffects] = field(default_factory=list)
    #: The next message is a plain Celery task: run it, then go on.
    plain_task: PlainTask | None = None

    def written(self, partition: str, commit_number: int, parked: Mapping[str, ParkedKeyRecord]) -> Iterator[Effect]:
        """All that the commit writes. The number of the commit makes the ids of dead letters. `parked`: how the keys are parked."""
        for computation, states in self.states.items():
            if states:
                yield PutStates(computation, states)
        for number, raws in self.forwarded.items():
            yield Forward(number, raws)
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
                "forwarded": sum(map(len, self.forwarded.values())),
                "delayed": len(self.delayed),
                "skipped": sum(one.why != "duplicate" for one in self.skipped),
                "deduplicated": sum(one.why == "duplicate" for one in self.skipped),
            }
        )
