"""The calls in flight of one owned partition: its runs, its open batch, and the mailboxes that wait for a call."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from heapq import heapify, heappush
from typing import TYPE_CHECKING

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.deduplication import SeenIds
from celery_partitions.worker.key_runs import Ended, KeyRun

if TYPE_CHECKING:
    from celery_partitions.worker.batch import Batch
    from celery_partitions.worker.owned import OwnedPartition


@dataclass(slots=True, eq=False)
class OpenBatch:
    """A batch of the queue whose calls were started and that is not committed yet."""

    batch: Batch
    #: The messages as they were read, and what the step made of those that are not called outside the loop.
    items: Sequence[Item]
    outcome: Outcome
    runs: dict[str, KeyRun]
    #: Key → messages that move to its mailbox in the commit, behind those of its run.
    behind: dict[str, list[bytes]]
    #: The ids that were read for its deduplication.
    seen: dict[str, SeenIds]
    #: The step did work for it, which must not wait.
    is_urgent: bool
    #: How many of its runs are not over.
    left: int
    #: By the loop's clock.
    began: float
    #: How many calls the call thread had when it got those of the batch, with them.
    handed_over: int = 0
    #: The last of its runs to begin.
    last: KeyRun | None = None

    @property
    def is_isolating(self) -> bool:
        """Whether a worker died over its messages before, so that nothing else may start."""
        return bool(self.batch.noted) and self.batch.next_group == 1


@dataclass(slots=True, eq=False)
class Suspects:
    """One for all partitions of a process.

    After a first death all suspects run at once, each with a note in Redis. Those over which a second worker died run in small groups, of one
    partition at a time and beside no other suspects, so that no further death is blamed on them by mistake.
    """

    all: list[PartitionCalls] = field(default_factory=list)
    #: The partition that waits until no other suspects run.
    wanted_by: PartitionCalls | None = None

    def add(self, calls: PartitionCalls) -> None:
        """A partition runs suspects."""
        self.all = [one for one in self.all if one is not calls and one.has_suspects] + [calls]

    def leave(self, calls: PartitionCalls) -> None:
        """A partition does not wait for other suspects."""
        if self.wanted_by is calls:
            self.wanted_by = None

    def others_run(self, calls: PartitionCalls) -> bool:
        """Whether another partition runs suspects."""
        return any(one is not calls and one.has_suspects for one in self.all)

    def others_isolate(self, calls: PartitionCalls) -> bool:
        """Whether another partition runs suspects that must be beside no others, or waits to."""
        return self.wanted_by not in (None, calls) or any(one is not calls and one.is_isolating for one in self.all)


@dataclass(slots=True, eq=False)
class PartitionCalls:
    """Only the loop's thread uses it."""

    #: Whether a parked key's next message probably runs outside the loop.
    takes: Callable[[ParkedKey], bool]
    #: Seconds until the partition's calls need a turn of the loop, unless one ends before.
    seconds_to_turn: Callable[[OwnedPartition], float]
    #: Whether the loop may take the next batch of the queue.
    can_take: Callable[[PartitionCalls], bool]
    suspects: Suspects
    ended: Ended = field(default_factory=Ended)
    runs: dict[str, KeyRun] = field(default_factory=dict)
    open: OpenBatch | None = None
    #: A heap of (due time, key): mailboxes whose next message waits for a call.
    dues: list[tuple[float, str]] = field(default_factory=list)
    #: Key → its other mailboxes (own lines) that fell due while a call of the key was in flight.
    behind: dict[str, set[str]] = field(default_factory=dict)
    #: Keys that are parked as `running` in Redis.
    running: set[str] = field(default_factory=set)
    #: Since when an outcome of a mailbox's message waits for its commit (the loop's clock).
    ended_since: float | None = None
    #: Redis was reloaded: compare the runs with it before the next commit.
    doubtful: bool = False
    #: Digests of messages over which a worker died before: they must be committed before anything else starts (isolation).
    noted: list[str] = field(default_factory=list)
    #: A worker died: the partition's next messages are noted before they run.
    must_isolate: bool = False
    #: The computation for which the next message found no room, and since when.
    full: Computation | None = None
    full_since: float = 0.0
    #: The computation that was last without room. It gives the size of the next batch.
    filled: Computation | None = None
    #: No mailbox can be started before this time, unless a call ends: there is no room.
    no_room_until: float = 0.0
    #: Since when the worker is giving the partition up.
    leaving_since: float | None = None
    #: How many outcomes one commit may hold, while the one that cannot be written is searched. None: any number.
    largest_commit: int | None = None
    #: A due commit had to let a plain batch go first.
    passed_over: bool = False

    @property
    def may_start(self) -> bool:
        """Whether messages may start: no suspects are in flight, what was reloaded has been compared, and the partition is not given up."""
        if self.noted or self.doubtful or self.leaving_since is not None:
            return False
        return not (self.must_isolate and self.suspects.others_isolate(self))

    @property
    def is_isolating(self) -> bool:
        """Whether suspects are in flight beside which nothing else may start."""
        return bool(self.noted) or (self.open is not None and self.open.is_isolating)

    @property
    def has_suspects(self) -> bool:
        """Whether calls in flight were noted in Redis as suspects."""
        return self.is_isolating or any(run.noted is not None for run in self.runs.values())

    @property
    def suspects_began(self) -> float:
        """When the first of the suspects in flight began (the loop's clock). Infinity: there are none."""
        return min((run.began for run in self.runs.values() if self.is_isolating or run.noted is not None), default=math.inf)

    def noted_by_runs(self) -> list[str]:
        """Digests of the suspects that run beside others."""
        return [run.noted for run in self.runs.values() if run.noted is not None]

    def note_parked(self, key: str, record: ParkedKey) -> None:
        (self.running.add if record.why == "running" else self.running.discard)(key)

    def take_parked(self, parked: Mapping[str, ParkedKey]) -> None:
        """Replace what is known of parked keys by what is in Redis."""
        self.running = {key for key, record in parked.items() if record.why == "running"}
        self.dues = [(record.due, key) for key, record in parked.items() if record.due is not None and self.takes(record)]
        heapify(self.dues)

    def note_free(self, owned: OwnedPartition, key: str, *places: str) -> None:
        """A key has no call in flight: its mailboxes may start again."""
        for place in {key, *places, *self.behind.pop(key, ())}:
            if (record := owned.parked.get(place)) is not None:
                owned.note_due(place, record)

    def note_due(self, key: str, due: float) -> None:
        heappush(self.dues, (due, key))
