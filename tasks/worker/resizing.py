"""What a worker's loop does during a resize: partitions follow the group's topology one after another, and messages wait for older ones.

A partition that follows a new topology first stops applying messages. Then its keys for other partitions leave, and those of other partitions come.
Then it goes on. A partition that gets keys takes a message from its queue only once its sources have passed on what they had when it came:
a producer may have sent an older one there, by the former number of partitions.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from celery_partitions.model.topology import Topology
from celery_partitions.store.leases import release
from celery_partitions.store.resize import NotMoved, Place, Status, admit, move_keys, note_progress, read_place
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

    def count_down(self, sources: dict[int, tuple[int, int]]) -> bool:
        """Returns whether a source has got on."""
        before = dict(self.left)
        for source, (removed, length) in sources.items():
            # At most what it has: somebody may have emptied the queue.
            self.left[source] = min(self.left[source] - (removed - self.removed[source]), length)
            self.removed[source] = removed
        return self.left != before

    @property
    def may_pass(self) -> bool:
        return all(left <= 0 for left in self.left.values())


@dataclass(slots=True)
class Move:
    """A partition's keys on their way. Each step returns how many states moved."""

    steps: Iterator[int]
    began: float
    states: int = 0


class Resizing:
    """Made once per loop and used by its thread."""

    def __init__(self, loop: PartitionLoop) -> None:
        self.loop = loop
        self.topology = loop.installation.group.topology
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
        text = "partitions: the group has %d partitions now (epoch %d)%s"
        logger.info(text, topology.partitions, topology.epoch, "" if topology.former is None else f", before {topology.former}; keys move")

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
            if not self._note(owned, "epoch", now):
                return True
            owned.forget_all()
            if loop.calls is not None:  # its calls have ended; it begins again without them
                self._give_up(owned)
                return True
        if place.moved < topology.epoch and not self._move(owned):
            return True
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
        self._open(owned, place)
        return False

    def _may_go_on(self, owned: OwnedPartition, place: Place) -> bool:
        """Whether the partition may work by the topology before, while others move: nothing came or left yet, and nobody waits for it."""
        former = self.topology.former
        if former is None or place.epoch != self.topology.epoch - 1:
            return False
        return owned.number is None or (self.topology.partitions > former and owned.number < former)

    def _note(self, owned: OwnedPartition, what: str, now: float) -> bool:
        """Note in Redis how far the partition is. False: the topology is another by now, which the lease keeper will tell."""
        return self._judge(owned, note_progress(self.loop.client, self.loop.names, owned.lease, self.topology.epoch, what), now)  # type: ignore[arg-type]

    def _judge(self, owned: OwnedPartition, status: Status, now: float) -> bool:
        if status == "fenced":
            raise LeaseLost
        if status != "ok":
            owned.rest_until = now + LOOK_SECONDS
            if status == "changed":
                self.loop.wake_keeper()
        return status == "ok"

    def _move(self, owned: OwnedPartition) -> bool:
        """Move keys for the time of one turn. Returns whether all have moved."""
        loop, clock = self.loop, self.loop.clock.monotonic
        move, owned.move = owned.move, None
        if move is None:
            steps = iter(()) if owned.number is None else move_keys(loop.client, loop.names, owned.lease, self.topology, loop.installation.computations)
            move = Move(steps, clock())
        until = clock() + MOVE_SECONDS
        try:
            for states in move.steps:
                move.states += states
                if clock() > until:
                    owned.move, owned.rest_until = move, clock() + MOVE_SECONDS / 2
                    return False
        except NotMoved as refusal:
            self._judge(owned, refusal.status, clock())
            return False
        if not self._note(owned, "moved", clock()):
            return False
        took = clock() - move.began
        if owned.number is not None:
            logger.info("partition %s: follows the new number of partitions; %d states moved in %.2f s", owned.partition, move.states, took)
            self._next_at = clock() + took * REST_PER_MOVE
        return True

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
        sources = dict(answer.sources)
        gets_on = answer.admitted > 0 or (cohort is None and answer.waiting > 0)
        if cohort is not None:
            cohort.count -= answer.admitted
            gets_on = cohort.count_down(sources) or gets_on
        if answer.waiting and (cohort is None or cohort.count <= 0):
            cohort = Cohort(answer.waiting, {one: left for one, (_, left) in sources.items()}, {one: gone for one, (gone, _) in sources.items()})
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
