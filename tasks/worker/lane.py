"""One unit (partition or ingress) in its holder's hands: the lease, what was peeked, what waits, the states in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from tasks.model.reading import Item, Reading, Work
from tasks.model.step import Outcome, Slot, Unreadable
from tasks.store.commits import Lease, Parked, Reply

#: The first batch after a short one asks for at least so many messages.
LEAST_ASKED = 16


Table = dict[str, "Slot | Unreadable"]


class StateCache:
    """States in memory while the lease is held, bounded, in two generations.

    A hit in the younger costs nothing; one in the older moves the state to the younger. When both together are full the
    older is dropped and the younger becomes it: what was used least recently goes.
    """

    def __init__(self) -> None:
        self.young: dict[str, Table] = {}
        self._old: dict[str, Table] = {}
        self._has_unreadable = False

    def missing(self, items: Iterable[Item]) -> dict[str, list[str]]:
        """The keys of the items whose state is not in memory, by computation name; the others are in `young` now."""
        missing: dict[str, dict[str, None]] = {}
        young: Table = {}
        old: Table = {}
        current = None
        for item in items:
            if type(item) is not Work or item.computation.state is None:
                continue
            if item.computation is not current:
                current = item.computation
                young = self.young.setdefault(current.name, {})
                old = self._old.setdefault(current.name, {})
            if item.key not in young:
                slot = old.pop(item.key, None)
                if slot is None:
                    missing.setdefault(item.computation.name, {})[item.key] = None
                else:
                    young[item.key] = slot
        return {name: list(keys) for name, keys in missing.items()}

    def add(self, loaded: Mapping[str, Table]) -> None:
        """Take in what was read from Redis."""
        for name, slots in loaded.items():
            self.young[name].update(slots)
            self._has_unreadable = self._has_unreadable or any(type(slot) is Unreadable for slot in slots.values())

    def may_hold_unreadable(self, so: bool) -> None:
        """Whether the step may have found a state unreadable after it was loaded."""
        self._has_unreadable = self._has_unreadable or so

    def committed(self, states: Mapping[str, Mapping[str, bytes]]) -> None:
        """Remember what Redis has now."""
        for name, changed in states.items():
            table = self.young[name]
            for key, stored in changed.items():
                slot = table[key]
                if type(slot) is Slot:
                    slot.stored = stored

    def trim(self, most: int) -> None:
        """After a commit: keep at most about `most` states, and none that could not be read (it may be mended)."""
        if self._has_unreadable:
            for table in self.young.values():
                for key in [key for key, slot in table.items() if type(slot) is Unreadable]:
                    del table[key]
            self._has_unreadable = False
        if sum(map(len, self.young.values())) + sum(map(len, self._old.values())) > most:
            self._old, self.young = self.young, {}


@dataclass(slots=True)
class Batch:
    """Messages to step, and where they lie."""

    messages: list[bytes]
    mailbox_of: str | None = None
    #: For a mailbox: which try the first message is at, and how many messages the mailbox has.
    attempt: int = 1
    length: int = 0


@dataclass(slots=True)
class Lane:
    """A unit under a lease."""

    lease: Lease
    parked: dict[str, Parked]
    position: int = 0
    revision: int = 0
    messages: list[bytes] = field(default_factory=list)
    #: The head of the queue is unknown: peek before waiting.
    unknown: bool = True
    next_due: float | None = None
    #: Server's clock minus this process's monotonic clock, seconds.
    clock_offset: float = 0.0
    cache: StateCache = field(default_factory=StateCache)
    #: How this unit's messages are read; made with the first batch.
    reading: Reading | None = None
    #: By the monotonic clock: nothing is tried before (after a fault).
    rest_until: float = 0.0
    #: The fault that was said last; "" once a commit worked again.
    fault: str = ""
    #: The position at which the pending blocking peek was begun; its message is the head only while that holds.
    watched_at: int = -1

    @property
    def unit(self) -> str:
        return self.lease.unit

    @property
    def partition(self) -> int | None:
        """The partition's number; None for the ingress."""
        return int(self.unit) if self.unit.isdigit() else None

    def server_now(self) -> float:
        return time.monotonic() + self.clock_offset

    def take_reply(self, reply: Reply) -> None:
        """What every answer of the commit script tells."""
        self.position, self.revision = reply.position, reply.revision
        self.messages = reply.messages
        self.next_due = reply.next_due
        self.clock_offset = reply.now - time.monotonic()
        self.unknown = False

    def due_key(self) -> str | None:
        """A parked key whose retry is due, the longest overdue first."""
        if not self.parked:
            return None
        key = min(self.parked, key=lambda key: self.parked[key].due)
        return key if self.parked[key].due <= self.server_now() else None

    def seconds_to_next_due(self) -> float | None:
        """Until a delayed message or a retry is due; None when nothing waits."""
        dues = [fact.due for fact in self.parked.values()]
        if self.next_due is not None:
            dues.append(self.next_due)
        return max(0.0, min(dues) - self.server_now()) if dues else None

    def is_ready(self) -> bool:
        """Whether there is something to do now."""
        if self.rest_until > time.monotonic():
            return False
        if self.messages or self.unknown or self.due_key() is not None:
            return True
        return self.next_due is not None and self.next_due <= self.server_now()

    def forget_all(self) -> None:
        """After a refusal: nothing in memory can be trusted; begin again from Redis."""
        self.cache = StateCache()
        self.messages = []
        self.unknown = True

    def ask_after(self, taken: int, offered: int, most: int) -> int:
        """How many messages to ask for: after a batch that ended early (slow computations, an ordinary task) fewer, so
        that little is read twice."""
        return most if taken >= offered else max(LEAST_ASKED, min(most, taken * 2))

    def follow(self, outcome: Outcome, parked: dict[str, Parked], ended: str | None) -> None:
        """After a commit: what it made true in Redis is true here."""
        self.fault = ""
        self.cache.committed(outcome.states)
        self.cache.may_hold_unreadable(bool(outcome.dead))
        self.parked.update(parked)
        if ended is not None:
            self.parked.pop(ended, None)
