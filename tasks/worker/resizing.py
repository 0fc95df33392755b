"""What a worker's loop does during a resize: partitions follow the group's topology one after another, and messages wait for older ones.

A partition that follows a new topology first stops applying messages. Then its keys for other partitions leave, and those of other partitions come.
Then it goes on. A partition that gets keys takes a message from its queue only once its sources have passed on what they had when it came:
a producer may have sent an older one there, by the former number of partitions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from celery_partitions.model.topology import Topology
from celery_partitions.store import resize_apart
from celery_partitions.store.leases import release
from celery_partitions.store.resize import NotMoved, Place, Source, Status, admit, move_keys, note_progress, read_place
from celery_partitions.worker.isolation import LeaseLost
from celery_partitions.worker.owned import OwnedPartition

if TYPE_CHECKING:
    from celery_partitions.worker.loop import PartitionLoop

logger = logging.getLogger("celery.worker.partitions")

#: How long one turn moves keys.
MOVE_SECONDS = 0.2
#: After a partition's keys have moved, how long the worker's other partitions go on before the next one stops, as a multiple of what that took.
REST_PER_MOVE = 1.0
#: How often a partition looks whether others are ready.
LOOK_SECONDS = 0.02
#: How often it looks for messages to admit: at first, and at the longest if none come.
ADMIT_SECONDS, LONGEST_ADMIT_SECONDS = 0.002, 0.1


@dataclass(slots=True)
class Cohort:
    """Messages of a queue that wait together, and how many older messages their partition's sources may still have."""

    count: int
    #: Source → messages, and how many were taken from it when that was last counted.
    left: dict[int, int]
    removed: dict[int, int]
    #: Source on another server → what it has sent on when nothing was left, and what of that has arrived: numbers of entries.
    sent: dict[int, int] = field(default_factory=dict)
    arrived: dict[int, int] = field(default_factory=dict)

    @classmethod
    def of(cls, count: int, sources: Mapping[int, Source]) -> Cohort:
        cohort = cls(count, {one: found.left for one, found in sources.items()}, {one: found.removed for one, found in sources.items()})
        cohort.count_down(sources)
        return cohort

    def count_down(self, sources: Mapping[int, Source]) -> bool:
        """Returns whether a source has got on."""
        before = dict(self.left), dict(self.arrived)
        for source, found in sources.items():
            # At most what it has: somebody may have emptied the queue.
            self.left[source] = min(self.left[source] - (found.removed - self.removed[source]), found.left)
            self.removed[source] = found.removed
            if self.left[source] <= 0:
                self.sent.setdefault(source, found.sent)
                self.arrived[source] = found.arrived
        return (self.left, self.arrived) != before

    @property
    def may_pass(self) -> bool:
        return all(left <= 0 for left in self.left.values()) and all(self.arrived[one] >= sent for one, sent in self.sent.items())


@dataclass(slots=True)
class Move:
    """A partition's keys on their way. Each step returns how many states moved."""

    #: Of the topology by which they move.
    epoch: int
    steps: Iterator[int]
    began: float
    states: int = 0


class Resizing:
    """Made once per loop and used by its thread."""

    def __init__(self, loop: PartitionLoop) -> None:
        self.loop = loop
        self.topology = loop.installation.group.topology
        if loop.names.is_spread:  # what else this process sends must not follow another topology before the loop does
            loop.installation.group.follow(self.topology, math.inf)
        self._before: Topology | None = None
        #: More partitions: the one that has stopped, so that others go on meanwhile. And when the next one may stop.
        self._stopped: str | None = None
        self._next_at = 0.0

    def follow(self, topology: Topology) -> None:
        """The lease keeper has read this topology. Messages that are sent from now on follow it; partitions follow when their turn comes."""
        if topology == self.topology:
            return
        self.topology = topology
        self._before = None if topology.former is None else topology.before
        self.loop.installation.group.follow(topology, math.inf)
        self._stopped = None
        for owned in self.loop.owned_partitions.values():
            owned.attend_at = 0.0
            if owned.outbox is not None:
                owned.outbox.order = self.order
        text = "partitions: the group has %d partitions now (epoch %d)%s"
        logger.info(text, topology.partitions, topology.epoch, "" if topology.former is None else f", before {topology.former}; keys move")

    @property
    def order(self) -> int:
        """The order of what partitions send to each other on several servers: `Outbox.order`."""
        former = self.topology.former
        return 0 if former is None else 1 if former < self.topology.partitions else -1

    def must_attend(self, owned: OwnedPartition) -> bool:
        """Whether the partition was found changed, so that its topology must be read again before anything else."""
        return owned.topology is None and self.topology.epoch > 0

    def attend(self, owned: OwnedPartition) -> bool:
        """Called before a partition's turn. True: the turn is over. Raises `LeaseLost` and the server's errors."""
        if owned.topology is self.topology:
            return owned.lease.inbox and self._admit(owned)
        if self.topology.epoch == 0:
            owned.topology, owned.attend_at = self.topology, math.inf
            return False
        now = self.loop.clock.monotonic()
        if owned.topology is not None and owned.topology is self._before and not self._is_turn(owned, now):
            owned.attend_at = max(now + LOOK_SECONDS, self._next_at)
            return False
        return self._follow(owned, now)

    def _is_turn(self, owned: OwnedPartition, now: float) -> bool:
        """Whether the partition may stop now. If there will be fewer, all stop at once, because they wait for each other. The ingress sends, so it
        goes on until all keys have moved."""
        if owned.number is None:
            return not self.topology.is_moving
        if self.loop.names.is_spread and self.topology.sources(owned.number):
            return True  # no key comes before it follows
        if self.topology.partitions < (self.topology.former or 0):
            return True
        if self._stopped is not None and self._stopped not in self.loop.owned_partitions:
            self._stopped = None
        return self._stopped == owned.partition or (self._stopped is None and now >= self._next_at)

    def _follow(self, owned: OwnedPartition, now: float) -> bool:
        loop, topology = self.loop, self.topology
        loop.commits.settle()
        place = read_place(loop.client, loop.names, owned.partition, topology, owned.number)
        if place.newest != topology.epoch:  # the lease keeper will tell
            self._judge(owned, "changed", now)
            return True
        if place.epoch < topology.epoch:
            if self._may_go_on(owned, place) and not self._is_turn(owned, now):
                owned.topology, owned.reading, owned.attend_at = self._before, None, now + LOOK_SECONDS
                return False
            if owned.number is not None:
                self._stopped = owned.partition
            if loop.calls is not None and not loop.calls.is_wound_down(owned):
                owned.topology, owned.reading, owned.attend_at = self._before, None, now + LOOK_SECONDS
                return False
            if place.moved < place.epoch and owned.outbox is not None and not self._move(owned, topology.undone):
                return True
            if not self._note(owned, "epoch", now):
                return True
            owned.forget_all()
            if loop.calls is not None:  # its calls have ended; it begins again without them
                self._give_up(owned)
                return True
        if place.moved < topology.epoch:
            if not self._move(owned, topology):
                return True
        elif topology.is_moving and loop.names.is_spread:  # the last holder may have died between the two notes
            resize_apart.note_moved(loop.client, loop.names, owned.partition, topology)
        if self._stopped == owned.partition:
            self._stopped = None
        if not place.is_complete:
            took = loop.clock.monotonic() - now
            owned.rest_until, owned.waits = now + LOOK_SECONDS + 10 * took, True
            loop.go_behind(owned)  # those that it waits for may have used much more time
            return True
        if owned.waits:  # newer code may have written what came: only a claim checks that
            self._give_up(owned)
            return True
        if loop.names.is_spread and topology.is_back and topology.sources(owned.number) and not self._note(owned, "returned", now):
            return True
        self._open(owned, place)
        return False

    def _may_go_on(self, owned: OwnedPartition, place: Place) -> bool:
        """Whether the partition may work by the topology before, while others move: nothing came or left yet, and nobody waits for it."""
        former = self.topology.former
        if former is None or self.topology.is_back or place.epoch != self.topology.epoch - 1:
            return False
        return owned.number is None or (self.topology.partitions > former and owned.number < former)

    def _note(self, owned: OwnedPartition, what: resize_apart.Note, now: float, epoch: int | None = None) -> bool:
        """Note in Redis how far the partition is. False: not now; the topology may be another, which the lease keeper will tell."""
        loop, epoch = self.loop, self.topology.epoch if epoch is None else epoch
        if loop.courier is None and what != "returned":
            return self._judge(owned, note_progress(loop.client, loop.names, owned.lease, epoch, what), now)
        if loop.courier is not None and not loop.courier.has_brought_all(owned):
            owned.rest_until = now + LOOK_SECONDS
            return False
        return self._judge(owned, resize_apart.note_progress(loop.client, loop.names, owned.lease, self.topology, what, epoch), now)

    def _judge(self, owned: OwnedPartition, status: Status, now: float) -> bool:
        if status == "fenced":
            raise LeaseLost
        if status != "ok":
            owned.rest_until = now + LOOK_SECONDS
            if status == "changed":
                self.loop.wake_keeper()
        return status == "ok"

    def _move(self, owned: OwnedPartition, topology: Topology) -> bool:
        """Move keys for the time of one turn. Returns whether all have moved."""
        loop, clock = self.loop, self.loop.clock.monotonic
        if loop.courier is not None and not loop.courier.may_take(owned):
            return False
        move, owned.move = owned.move, None
        try:
            if move is None or move.epoch != topology.epoch:
                move = Move(topology.epoch, self._steps(owned, topology), clock())
            until = clock() + MOVE_SECONDS
            for states in move.steps:
                move.states += states
                has_room = loop.courier is None or loop.courier.may_take(owned)
                if clock() > until or not has_room:
                    owned.move, owned.rest_until = move, max(owned.rest_until, clock() + MOVE_SECONDS / 2)
                    return False
        except NotMoved as refusal:
            self._judge(owned, refusal.status, clock())
            return False
        if not self._note(owned, "moved", clock(), topology.epoch):
            owned.move = move  # it is at its end
            return False
        took = clock() - move.began
        if owned.number is not None:
            logger.info("partition %s: follows the new number of partitions; %d states moved in %.2f s", owned.partition, move.states, took)
            self._next_at = clock() + took * REST_PER_MOVE
        return True

    def _steps(self, owned: OwnedPartition, topology: Topology) -> Iterator[int]:
        """The steps in which a partition's keys move."""
        loop, removal = self.loop, None
        if owned.number is None:
            return iter(())
        if owned.outbox is not None:
            # By a lease without inbox: what falls due meanwhile is for the queue.
            removal = resize_apart.Removal(loop.client, loop.names, loop.store, replace(owned.lease, inbox=False), owned.outbox)
        return move_keys(loop.client, loop.names, owned.lease, topology, loop.installation.computations, removal)

    def _open(self, owned: OwnedPartition, place: Place) -> None:
        """The partition works by the new topology from now on."""
        inbox = bool(self.topology.sources(owned.number)) or place.has_inbox
        if inbox != owned.lease.inbox:
            owned.forget_all()
        owned.lease = replace(owned.lease, inbox=inbox)
        owned.topology, owned.reading, owned.cohort = self.topology, None, None
        owned.attend_at, owned.admit_at = math.inf, 0.0 if inbox else math.inf

    def _give_up(self, owned: OwnedPartition) -> None:
        """Release a partition, to claim it again."""
        loop, token = self.loop, owned.lease.token
        loop.holdings.close(owned)
        release(loop.client, loop.names, loop.worker, {owned.partition: token})
        loop.wake_keeper()

    # Messages that wait for older ones.

    def _admit(self, owned: OwnedPartition) -> bool:
        """Admit messages if it is time. True: there is nothing else to do."""
        now = self.loop.clock.monotonic()
        if owned.messages:
            if owned.admit_at <= now:  # they may have to wait, for a pause or for room; a time in the past would keep the loop awake
                owned.admit_at = now + LOOK_SECONDS
            return False
        if owned.admit_at > now and not owned.must_peek:
            return False
        cohort: Cohort | None = owned.cohort
        count = cohort.count if cohort is not None and cohort.may_pass else 0
        answer = admit(self.loop.client, self.loop.names, owned.lease, self.topology.sources(owned.number), count)
        if answer is None:
            raise LeaseLost
        sources = answer.sources
        gets_on = answer.admitted > 0 or (cohort is None and answer.waiting > 0)
        if cohort is not None:
            cohort.count -= answer.admitted
            gets_on = cohort.count_down(sources) or gets_on
        if answer.waiting and (cohort is None or cohort.count <= 0):
            cohort = Cohort.of(answer.waiting, sources)
        owned.cohort = cohort = cohort if answer.waiting else None
        if cohort is not None and cohort.may_pass:
            owned.admit_seconds = 0.0
        elif gets_on and not owned.paused:
            owned.admit_seconds = ADMIT_SECONDS
        else:
            owned.admit_seconds = min(LONGEST_ADMIT_SECONDS, max(ADMIT_SECONDS, owned.admit_seconds * 2))
        owned.admit_at = now + owned.admit_seconds
        if not answer.ready and not answer.waiting and not self.topology.sources(owned.number):
            owned.topology = None  # the inbox is empty for good: look whether the queue may be used directly
        if answer.ready:
            return False
        return not owned.must_peek and not owned.is_ready()
