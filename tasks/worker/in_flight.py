"""Calls in flight, as the partition loop sees them: starts them, collects their results, and gives these to the partition's next commit.

A call begins while its message is in the queue. If it has not ended when its batch is committed, that commit moves its message to its key's
mailbox, with the reason `running`; the call goes on, and its outcome joins a later commit. Only the loop's thread uses this module; the calls
themselves run in `calls`.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Container, Mapping, Sequence

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import describe
from celery_partitions.model.in_flight import (
    Division,
    divide,
    is_behind_line,
)
from celery_partitions.model.items import Apart, Item, Reading, Work, condemned
from celery_partitions.model.outcome import Outcome, Slot, Waiting
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of
from celery_partitions.worker.abandoned_calls import AbandonedCalls
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.call_room import CallRoom
from celery_partitions.worker.call_times import CallTimes
from celery_partitions.worker.calls import CallThread
from celery_partitions.worker.in_flight_commit import PlannedCalls, finish
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.mailbox_calls import MailboxCalls
from celery_partitions.worker.owned import MIN_ASKED, OwnedPartition
from celery_partitions.worker.partition_calls import OpenBatch, PartitionCalls, Suspects
from celery_partitions.worker.reloaded_calls import adopted, without_ground
from celery_partitions.worker.unwritable import lies_in_the_outcome
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")

class InFlight:
    """Made once per loop, if any computation waits."""

    def __init__(
        self,
        settings: Settings,
        client: redis.Redis,
        names: Names,
        codec: StateCodec,
        computations: Mapping[str, Computation],
        calls: CallThread,
        clock: Callable[[], float],
    ) -> None:
        self.settings, self.client, self.names, self.codec = settings, client, names, codec
        self.computations, self.calls = computations, calls
        self.room = CallRoom(settings)
        self.times = CallTimes(self.room, self.collect, clock)
        self.suspects = Suspects()
        self.abandoned = AbandonedCalls()
        self.mailboxes = MailboxCalls(self)
        #: Whether some of them are batch computations.
        self.gathers = any(one.flush is not None for one in computations.values())
        self._waiting: dict[Computation, Computation | None] = {}

    # What runs where.

    def waiting(self, computation: Computation) -> Computation | None:
        """The stage that runs outside the loop; None for a plain computation."""
        try:
            return self._waiting[computation]
        except KeyError:
            return self._waiting.setdefault(computation, computation.waiting)

    def use(self) -> tuple[dict[str, int], dict[str, int]]:
        """Calls in flight by computation, and how many there may be: for the worker's report."""
        stages = {stage.name: stage for stage in self._waiting.values() if stage is not None}
        limits = {name: self.room.limit(stage) for name, stage in stages.items()}
        return {name: min(self.room.counts[name], limit) for name, limit in limits.items()}, limits

    def takes(self, record: ParkedKey) -> bool:
        """Whether a parked key's next message probably runs outside the loop. The lines of tasks are the loop's."""
        if record.reason == "unknown-task":
            return False
        known = None if record.task is None else self.computations.get(record.task)
        return record.why == "running" if known is None else self.waiting(known) is not None

    def of(self, owned: OwnedPartition) -> PartitionCalls:
        if owned.calls is None:
            owned.calls = PartitionCalls(self.takes, self.times.seconds_to_turn, self.times.can_take, self.suspects)
            if not owned.must_load_parked:
                owned.index_parked()
        return owned.calls

    # A turn.

    def attend(self, owned: OwnedPartition, reading: Reading, revoked: Container[str]) -> None:
        """Collect results, and start the calls that are due."""
        calls = self.of(owned)
        calls.must_isolate = owned.to_isolate > 0
        self.suspects.leave(calls)  # `isolate` says again if it must wait
        self.collect(owned)
        if owned.paused:
            self.stop(calls)
        if owned.must_peek or owned.must_load_parked:
            return
        if calls.doubtful:
            for key in without_ground(self.client, self.names, owned, calls):
                self.drop(owned, key)
        if not owned.paused and calls.may_start and not calls.is_isolating:
            self.mailboxes.start(owned, reading, revoked)

    @staticmethod
    def stop(calls: PartitionCalls) -> None:
        """Let calls in flight end, but start no more messages of their keys."""
        for run in calls.runs.values():
            run.stopping = True

    @staticmethod
    def let_go_on(calls: PartitionCalls) -> None:
        """Undo `stop` for runs that have not stopped yet."""
        for run in calls.runs.values():
            run.stopping = False

    def collect(self, owned: OwnedPartition) -> None:
        """Take the results from the call thread."""
        calls = self.of(owned)
        for run, outcome, is_over in calls.ended.collect():
            if run.cancelled or run.is_over:
                continue
            if outcome is not None:
                run.outcomes.append(outcome)
            calls.no_room_until = 0.0
            if outcome is not None and not run.from_queue and calls.ended_since is None:
                calls.ended_since = owned.clock()
            if is_over:
                self.room.release(run)
                if not run.from_queue and not run.outcomes and not calls.doubtful:
                    finish(owned, calls, run)
                if calls.open is not None and calls.open.runs.get(run.key) is run:
                    calls.open.left -= 1

    def next_batch(self, owned: OwnedPartition) -> Batch | None:
        """The next messages of the queue: not many more than can start, because the others would be read again."""
        calls, messages = self.of(owned), owned.messages
        if not messages:
            return None
        if calls.filled is None:
            return Batch(messages)
        free = self.room.free(calls.filled)
        return Batch(messages[: max(free + free // 4, MIN_ASKED)])

    def divide(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item]) -> Division:
        """Who calls the messages of a batch. In a batch of a mailbox, the step gets the messages before the first that waits."""
        calls = self.of(owned)
        if batch.line is not None:
            return Division(list(items))  # of several keys, and rare: the loop calls them
        if batch.failed is not None and batch.mailbox_of is not None:
            return Division(list(items[:1]))  # it is not called
        if batch.mailbox_of is not None:
            kept: list[Item] = []
            for item in items:
                waits = isinstance(item, Work) and self.waiting(item.computation) is not None
                if waits and not is_behind_line(owned.own_lines, item, batch.mailbox_of):
                    break
                kept.append(item)
            return Division(kept)
        begun: Counter[str] = Counter()
        size = 0

        def has_room(stage: Computation, item: Work) -> bool:
            nonlocal size
            if item.key in calls.runs:
                return True  # an older run of these messages, which may go on
            if self.room.free(stage, begun[stage.name]) <= 0 or (not self.room.has_bytes(size) and (begun or self.room.bytes)):
                return False
            begun[stage.name] += 1
            size += len(item.raw)
            return True

        division = divide(
            items,
            waiting=self.waiting,
            running=calls.running.union(
                (key for key, run in calls.runs.items() if not run.from_queue), self.abandoned.keys()
            ),
            parked=owned.parked,
            own_lines=owned.own_lines,
            has_room=has_room,
            one_message=bool(batch.noted),
        )
        calls.full, calls.full_since = division.full, owned.clock()
        if division.full is not None or not division.runs:
            calls.filled = division.full
        if division.behind and self.gathers:
            for item in items:
                if isinstance(item, Work) and (run := calls.runs.get(item.key)) is not None and item.computation is not run.stage:
                    run.is_followed = True
        return division

    def begin(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item], division: Division, outcome: Outcome) -> bool:
        """Start the calls of a batch after its step. False: the batch has none, and the loop commits it."""
        if batch.mailbox_of is not None or not (division.runs or division.behind):
            return False
        calls = self.of(owned)
        taken = items[: outcome.taken]
        if len(taken) < len(division.items):  # the step ended early
            division = self.divide(owned, batch, taken)
        runs = {}
        for key, works in division.runs.items():
            older = adopted(owned, calls, key, works)
            runs[key] = older or self.run_of(owned, key, works)
            if len(works) > len(runs[key].items):  # the older run has the first of them
                division.behind[key] = [work.raw for work in works[len(runs[key].items) :]] + division.behind.get(key, [])
        for key in [key for key, run in calls.runs.items() if run.from_queue and run is not runs.get(key)]:
            self.drop(owned, key)  # its message is no longer where it was
        if batch.failed is not None:
            for run in runs.values():
                run.failed = batch.failed
        fresh = [run for key, run in runs.items() if calls.runs.get(key) is not run]
        calls.runs.update(runs)
        is_urgent = any(type(item) is not Apart for item in division.items) or not runs
        left = sum(not run.is_over for run in runs.values())
        calls.open = opened = OpenBatch(batch, items, outcome, runs, division.behind, owned.seen, is_urgent, left, owned.clock())
        if batch.noted:
            self.suspects.add(calls)
            if not calls.is_isolating:
                for run in runs.values():
                    run.noted = digest_of(run.items[0].raw)
        self.start(calls, fresh)
        opened.last = fresh[-1] if fresh else None
        opened.handed_over = sum(self.room.counts[stage.name] for stage in {run.stage for run in runs.values()})
        return True

    def run_of(self, owned: OwnedPartition, key: str, works: Sequence[Item], *, attempt: int = 1, place: str = "") -> KeyRun:
        """A new run. The states of its messages must be in the cache. `place`: the mailbox with them, if they are not in the queue."""
        names: dict[str, None] = {}
        stage, size = None, 0
        for work in works:
            size += len(work.raw)
            if isinstance(work, Work):
                stage = stage or self.waiting(work.computation)
                for stateful in work.computation.stateful:
                    names[stateful.name] = None
        slots = owned.cache.take(names, key)
        base: dict[str, bytes | None] = {}
        for name, table in slots.items():
            slot = table[key]
            base[name] = stored = slot.stored if type(slot) is Slot else None
            size += len(stored or b"")
        assert stage is not None
        return KeyRun(owned, key, list(works), slots, base, stage, attempt=attempt, place=place, from_queue=not place, size=size)

    def start(self, calls: PartitionCalls, runs: Sequence[KeyRun]) -> None:
        if runs:
            self.room.add(runs)
            self.calls.submit(runs, calls.ended)

    def drop(self, owned: OwnedPartition, key: str) -> None:
        """Cancel a key's run. Its message runs again, from where it is in Redis."""
        calls = self.of(owned)
        run = calls.runs.pop(key)
        self.abandon(run)
        self.room.release(run)
        calls.note_free(owned, key, run.place)

    def abandon(self, run: KeyRun) -> None:
        """Cancel a run. Its key's next call waits until the one that is being made has ended."""
        self.calls.cancel([run])
        self.abandoned.add(run)

    def drop_all(self, owned: OwnedPartition) -> None:
        """The partition is no longer this worker's: cancel its calls."""
        if owned.calls is not None:
            for key in list(owned.calls.runs):
                self.drop(owned, key)
            owned.calls.open, owned.calls.noted = None, []
            self.suspects.leave(owned.calls)
            owned.calls = None

    def narrow(self, owned: OwnedPartition, planned: PlannedCalls, error: Exception) -> bool:
        """A commit cannot be written. Search for the outcome at fault in smaller commits; alone, its message becomes a dead letter.
        Returns False if no outcome of a call is at fault."""
        calls, count = self.of(owned), planned.count
        if not count or not lies_in_the_outcome(error):
            return False
        owned.forget_all()
        run = next(run for run, number in planned.runs if number)
        if count > 1 or run.from_queue:  # from now on, what ends moves to its mailbox before it is written
            if calls.largest_commit is None:
                text = "partition %s: cannot write what calls have done (%s); the message that causes this becomes a dead letter"
                logger.warning(text, owned.partition, describe(error), extra=log_fields(owned.partition))
            calls.largest_commit = max(1, count // 2)
            return True
        if not run.is_over:
            self.abandon(run)
        self.room.release(run)
        if run.together and (together := len(run.items)) > 1:  # one of them is at fault
            half = Waiting("gather", "", run.stage.name, None, 1, 0.0, run.halving.halved(together))
            run.outcomes[:] = [Outcome(waiting={run.place: half})]
        else:
            item = condemned(run.items[0], f"cannot write its outcome to Redis: {describe(error)}", "unwritable")
            run.outcomes[:] = [Outcome(taken=1, dead=[(item, 0)])]
        run.slots, run.base = {}, {}  # not what Redis has
        return True
