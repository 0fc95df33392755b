"""One partition in its holder's hands: the lease, what was peeked, what waits, the states in memory."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappop, heappush
from typing import NamedTuple

from celery_partitions.model.items import Item, Reading, Work
from celery_partitions.model.outcome import Outcome, Slot, Unreadable
from celery_partitions.store.commits import Reply
from celery_partitions.store.deduplication import SeenIds
from celery_partitions.store.leases import Lease
from celery_partitions.store.parked_keys import ParkedKeyRecord

#: An idle loop looks round so often, whatever happens.
MAX_IDLE_SECONDS = 60.0
#: The first batch after a short one asks for at least so many messages.
MIN_ASKED = 16


Table = dict[str, "Slot | Unreadable"]


class StateCache:
    """States in memory while the lease is held, bounded by their number and their bytes, in two generations.

    A hit in the younger costs nothing; one in the older moves the state to the younger. When both together are full, or
    the younger has half of the bytes, the older is dropped and the younger becomes it: what was used least recently goes. Bytes are counted as they are in Redis.
    """

    def __init__(self) -> None:
        self.young: dict[str, Table] = {}
        self._old: dict[str, Table] = {}
        self._has_unreadable = False
        #: So many states were not here and were read since that was last asked.
        self.missed = 0
        self._young_bytes = self._old_bytes = 0
        #: The bytes of the largest state that was met; None before any was.
        self.largest: int | None = None

    def missing(self, items: Iterable[Item]) -> dict[str, list[str]]:
        """The keys of the items whose state is not in memory, by computation name; the others are in `young` now."""
        missing: dict[str, dict[str, None]] = {}
        tables: list[tuple[str, Table, Table]] = []
        current = None
        for item in items:
            if not isinstance(item, Work):
                continue
            if item.computation is not current:
                current = item.computation
                names = [stage.name for stage in current.stateful]
                tables = [(name, self.young.setdefault(name, {}), self._old.setdefault(name, {})) for name in names]
            key = item.key
            for name, young, old in tables:
                if key not in young:
                    slot = old.pop(key, None)
                    if slot is None:
                        missing.setdefault(name, {})[key] = None
                    else:
                        young[key] = slot
                        size = _bytes_of(slot)
                        self._young_bytes += size
                        self._old_bytes -= size
        return {name: list(keys) for name, keys in missing.items()}

    def add(self, loaded: Mapping[str, Table]) -> None:
        """Take in what was read from Redis."""
        for name, slots in loaded.items():
            self.young[name].update(slots)
            self.missed += len(slots)
            sizes = list(map(_bytes_of, slots.values()))
            self._young_bytes += sum(sizes)
            self.largest = max(self.largest or 0, max(sizes, default=0))
            self._has_unreadable = self._has_unreadable or any(type(slot) is Unreadable for slot in slots.values())

    def may_hold_unreadable(self, so: bool) -> None:
        """Whether the step may have found a state unreadable after it was loaded."""
        self._has_unreadable = self._has_unreadable or so

    def committed(self, states: Mapping[str, Mapping[str, bytes]]) -> None:
        """Remember what Redis has now."""
        for name, changed in states.items():
            table = self.young.get(name, {})  # empty: dropped since, because an operator changed something
            for key, stored in changed.items():
                slot = table.get(key)
                if type(slot) is Slot:
                    self._young_bytes += len(stored) - _bytes_of(slot)
                    slot.stored = stored
                    if self.largest is None or len(stored) > self.largest:
                        self.largest = len(stored)

    def fitting(self, items: Sequence[Item], sizes: Mapping[str, Mapping[str, int]], limit: int) -> int:
        """How many of the items, from the first, have states of at most `limit` bytes together; at least one.

        `sizes`: by computation name and key, of states that are not in memory.
        """
        met: set[tuple[str, str]] = set()
        for count, item in enumerate(items):
            if not isinstance(item, Work):
                continue
            for stage in item.computation.stateful:
                place = stage.name, item.key
                if place not in met:
                    met.add(place)
                    slot = self.young.get(stage.name, {}).get(item.key)
                    limit -= sizes.get(stage.name, {}).get(item.key, 0) if slot is None else _bytes_of(slot)
            if limit < 0 and count:
                return count
        return len(items)

    def trim(self, limit: int, max_bytes: int) -> None:
        """After a commit: keep at most about `limit` states of `max_bytes` together, and none that could not be read (it may be
        mended)."""
        if self._has_unreadable:
            for table in self.young.values():
                for key in [key for key, slot in table.items() if type(slot) is Unreadable]:
                    del table[key]
            self._has_unreadable = False
        count = sum(map(len, self.young.values())) + sum(map(len, self._old.values()))
        if count > limit or self._young_bytes * 2 > max_bytes:
            self._old, self.young = self.young, {}
            self._old_bytes, self._young_bytes = self._young_bytes, 0
            if self._old_bytes > max_bytes:
                self._old, self._old_bytes = {}, 0


def _bytes_of(slot: Slot | Unreadable) -> int:
    return len(slot.stored) if type(slot) is Slot and slot.stored is not None else 0


class Verdict(NamedTuple):
    """Why a message becomes a dead letter without being run."""

    reason: str
    error: str


@dataclass(slots=True)
class Batch:
    """Messages to step, and where they lie."""

    messages: list[bytes]
    mailbox_of: str | None = None
    #: For a mailbox: which try the first message is at, and how many messages the mailbox has.
    attempt: int = 1
    length: int = 0
    #: Its messages, by their digests, were noted in Redis before they are run: a worker died.
    noted: list[str] = field(default_factory=list)
    #: It has one message only, and so has the next batch.
    alone: bool = False
    #: Why the message is a dead letter, or counts as failed, without being run.
    condemned: Verdict | None = None
    failed: str | None = None


@dataclass(slots=True)
class OwnedPartition:
    """A partition under a lease."""

    lease: Lease
    #: Keys that wait, and how many messages wait for each; not yet read while `parked_unknown`.
    parked: dict[str, ParkedKeyRecord] = field(default_factory=dict)
    mailbox_lengths: dict[str, int] = field(default_factory=dict)
    parked_unknown: bool = True
    #: When they are due, and which, as a heap; keys that an operator holds never are. An entry that `parked` contradicts is out of date.
    dues: list[tuple[float, str]] = field(default_factory=list)
    #: How many seconds retries of parked keys have had more than the queue, while both had something to do.
    retries_lead: float = 0.0
    #: Ids seen before, of the batch's computations that drop duplicates.
    seen: dict[str, SeenIds] = field(default_factory=dict)
    #: Nothing is taken until an operator resumes the partition.
    paused: bool = False
    #: So many messages are noted before they are run.
    to_isolate: int = 0
    #: Digests of the messages that were noted, and are not committed yet.
    trying: list[str] = field(default_factory=list)
    #: The whole process stood still for long in the last step.
    stalled: bool = False
    commit_number: int = 0
    edit_version: int = 0
    messages: list[bytes] = field(default_factory=list)
    #: The head of the queue is unknown: peek before waiting.
    unknown: bool = True
    next_due: float | None = None
    #: Server's clock minus this process's monotonic clock, seconds.
    clock_offset: float = 0.0
    cache: StateCache = field(default_factory=StateCache)
    #: How this partition's messages are read; made with the first batch.
    reading: Reading | None = None
    #: By the monotonic clock: nothing is tried before (after a fault).
    rest_until: float = 0.0
    #: How much of the loop's time it has had (see `turns`).
    used_seconds: float = 0.0
    #: While a message is looked for whose outcome can't be written (see `unwritable`): how many messages are taken at most, and the one
    #: that was found.
    largest_batch: int | None = None
    unwritable: tuple[str, Verdict] | None = None
    #: The fault that was said last; "" once a commit worked again.
    fault: str = ""
    #: The commit number at which the pending blocking peek was begun; its message is the head only while that holds.
    watched_at: int = -1

    @property
    def partition(self) -> str:
        return self.lease.partition

    @property
    def number(self) -> int | None:
        """The partition's number; None for the ingress."""
        return int(self.partition) if self.partition.isdigit() else None

    def server_now(self) -> float:
        return time.monotonic() + self.clock_offset

    def is_where_it_was(self, reply: Reply) -> bool:
        """By the answer to a peek. If not, the server went back to older data, or an operator changed something."""
        return (reply.commit_number, reply.edit_version) == (self.commit_number, self.edit_version)

    def take_reply(self, reply: Reply) -> None:
        """What every answer of the commit script tells."""
        # A peek, or a commit that was sent again after a lost reply, comes after an operator's change: nobody else tells of it,
        # and a commit with this edit version would write over what the operator wrote.
        is_changed, is_begun = reply.edit_version != self.edit_version, not self.unknown
        self.commit_number, self.edit_version = reply.commit_number, reply.edit_version
        self.messages = reply.messages
        self.next_due = reply.next_due
        self.paused, self.to_isolate = reply.paused, reply.to_isolate
        self.clock_offset = reply.now - time.monotonic()
        self.unknown = False
        if is_changed:
            self.cache = StateCache()
            self.parked_unknown = True
            if is_begun:  # with parked keys that may be no more
                self.forget_all()

    def take_parked(self, parked: dict[str, ParkedKeyRecord], mailbox_lengths: dict[str, int]) -> None:
        """What Redis says of the partition's parked keys."""
        self.parked, self.mailbox_lengths = parked, mailbox_lengths
        self.parked_unknown = False
        self.dues = [(fact.due, key) for key, fact in parked.items() if fact.due is not None]
        heapify(self.dues)

    @property
    def first_due(self) -> tuple[float, str] | None:
        """When the first parked key is due, and which."""
        while self.dues:
            due, key = self.dues[0]
            known = self.parked.get(key)
            if known is not None and known.due == due:
                return due, key
            heappop(self.dues)
        return None

    def is_turn_of_retries(self) -> bool:
        """Whether a parked key goes before the queue now: the queue has at least half of the time, when it has messages."""
        return not self.messages or self.retries_lead <= 0

    def charge_turn(self, seconds: float, *, retry: bool, at_most: float) -> None:
        """A turn took this long. `at_most`: so much the queue's turns save up for retries."""
        others_wait = bool(self.messages) if retry else self.due_key() is not None
        lead = self.retries_lead + (seconds if retry else -seconds)
        self.retries_lead = max(-at_most, min(lead, at_most)) if others_wait else 0.0

    def due_key(self) -> str | None:
        """A parked key whose retry is due, the longest overdue first."""
        first = self.first_due
        return first[1] if first is not None and first[0] <= self.server_now() else None

    def seconds_to_next_due(self) -> float | None:
        """Until a delayed message or a retry is due; None when nothing waits."""
        dues = [] if self.first_due is None else [self.first_due[0]]
        if self.next_due is not None:
            dues.append(self.next_due)
        return max(0.0, min(dues) - self.server_now()) if dues else None

    def is_ready(self) -> bool:
        """Whether there is something to do now."""
        if self.rest_until > time.monotonic() or (self.paused and not self.unknown):
            return False
        if self.messages or self.unknown or self.due_key() is not None:
            return True
        return self.next_due is not None and self.next_due <= self.server_now()

    def forget_all(self) -> None:
        """After a refusal: nothing in memory can be trusted; begin again from Redis."""
        self.cache = StateCache()
        self.messages = []
        self.unknown = self.parked_unknown = True

    def notify(self, edit_version: int, paused: bool) -> None:
        """By the lease keeper: what an operator changed has to be read."""
        if edit_version > self.edit_version or paused != self.paused:
            self.forget_all()

    def ask_after(self, taken: int, offered: int, limit: int) -> int:
        """How many messages to ask for: after a batch that ended early (slow computations, a plain task) fewer, so
        that little is read twice."""
        return limit if taken >= offered else max(MIN_ASKED, min(limit, taken * 2))

    def follow(
        self, outcome: Outcome, parked: dict[str, ParkedKeyRecord], ended: str | None, mailbox_of: str | None = None
    ) -> None:
        """After a commit: what it made true in Redis is true here."""
        self.fault = ""
        self.trying = []
        self.cache.committed(outcome.states)
        self.cache.may_hold_unreadable(bool(outcome.dead))
        for key, raws in outcome.mailed.items():
            self.mailbox_lengths[key] = self.mailbox_lengths.get(key, 0) + len(raws)
        if mailbox_of is not None:
            self.mailbox_lengths[mailbox_of] = self.mailbox_lengths.get(mailbox_of, 0) - outcome.taken
        self.parked.update(parked)
        if ended is not None:
            self.parked.pop(ended, None)
            self.mailbox_lengths.pop(ended, None)
        for key, fact in parked.items():
            if fact.due is not None:
                heappush(self.dues, (fact.due, key))


def idle_partitions(owned_partitions: Iterable[OwnedPartition]) -> tuple[list[OwnedPartition], float]:
    """The owned partitions whose queues may be watched for a message, and for how many seconds at most; none is ready now."""
    now = time.monotonic()
    idle, until = [], [MAX_IDLE_SECONDS]
    for owned in owned_partitions:
        if owned.rest_until > now:
            until.append(owned.rest_until - now)
        elif not owned.paused:
            idle.append(owned)
            seconds = owned.seconds_to_next_due()
            if seconds is not None:
                until.append(seconds)
    return idle, min(until)
