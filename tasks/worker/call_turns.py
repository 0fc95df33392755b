"""What a turn of the partition loop does about calls in flight: attend to them, commit their results, and wind them down."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from heapq import heappop
from typing import TYPE_CHECKING

import redis

from celery_partitions.model.in_flight import Division
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.installation import PartitionWorker
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.commits import CommitTooLarge
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.call_context import CallContext
from celery_partitions.worker.calls import CallThread
from celery_partitions.worker.in_flight import InFlight
from celery_partitions.worker.in_flight_commit import plan_calls
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import Event
from celery_partitions.worker.planned_commit import PendingCommit

if TYPE_CHECKING:
    from celery_partitions.worker.loop import PartitionLoop
    from celery_partitions.worker.parts import WorkerParts

#: How often a stopping worker looks whether its calls have ended, if none of them wakes it.
LOOK_SECONDS = 0.05


def begin_calls(
    loop: PartitionLoop, parts: WorkerParts, node: str, make_thread: Callable[..., CallThread] = CallThread
) -> CallTurns | None:
    """Start the thread for calls that wait. None: the app has no such computation, and no lifespan. Raises `LifespanFailed`.
    `make_thread`: the simulator passes its own thread."""
    installation, settings, runner = loop.installation, loop.settings, parts.runner
    given, me = installation.lifespan, PartitionWorker(installation.app, node)
    if given is None and all(one.waiting is None for one in installation.computations.values()):
        return None
    pickling = StateCodec(settings.state_signing_keys, settings.state_modules, loop.names.root).pickling()
    limit = settings.concurrency
    thread = make_thread(
        lambda owned: runner.rules_outside(owned, pickling),
        parts.hangs,
        parts.waiting.wake,
        lambda stage: stage.concurrency or limit,
        CallContext(installation.app, node, loop.clock.monotonic),
        runner.tokens,
        parts.revoked,
        None if given is None else partial(given, me),
        parts.traced,
    )
    thread.begin()
    runner.resources = thread.resources
    return CallTurns(loop, InFlight(settings, loop.client, loop.names, loop.codec, installation.by_task, thread, loop.clock.monotonic))


class CallTurns:
    """Made once per loop, if any computation waits. Only the loop's thread uses it."""

    def __init__(self, loop: PartitionLoop, in_flight: InFlight) -> None:
        self.loop, self.in_flight = loop, in_flight

    def attend(self, owned: OwnedPartition) -> bool:
        """Collect results, and start those that are due. True: their commit took the turn, because a plain batch had the last one."""
        self.in_flight.attend(owned, self.loop.reader.reading_of(owned), self.loop.parts.revoked)
        is_due = self.in_flight.times.seconds_to_commit(owned) == 0
        calls = self.in_flight.of(owned)
        if is_due and calls.passed_over:
            return self.commit(owned)
        calls.passed_over = is_due
        return False

    def divide(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item]) -> Division | None:
        """Who calls the messages of a batch. None: the loop has nothing to call now."""
        if batch.line is not None and (
            self.in_flight.of(owned).open is not None or self.in_flight.abandoned.hold(owned, batch, items)
        ):
            return None  # the keys of its messages may have calls in flight
        division = self.in_flight.divide(owned, batch, items)
        if division.items or not items:
            return division
        if batch.mailbox_of is not None and owned.first_due is not None:  # the key's next message runs elsewhere
            due, key = heappop(owned.dues)
            self.in_flight.of(owned).note_due(key, due)
        self.commit(owned)
        return None

    def begin(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item], division: Division, outcome: Outcome) -> bool:
        """Start the calls of a batch after its step. False: it has none, and the loop commits it."""
        if not self.in_flight.begin(owned, batch, items, division, outcome):
            return False
        self.commit(owned)
        return True

    def commit(self, owned: OwnedPartition, *, last: bool = False) -> bool:
        """Send the commit of the results, if it is due. `last`: even if it is not due; messages whose calls still run move to their mailboxes."""
        loop, calls = self.loop, owned.calls
        if calls is None or calls.doubtful or owned.must_peek or (not last and self.in_flight.times.seconds_to_commit(owned) != 0):
            return False
        calls.passed_over, now = False, loop.clock.monotonic()
        closes = calls.open is not None and (last or self.in_flight.times.seconds_to_close(calls, calls.open, now) == 0)
        if closes and calls.open is not None:
            self.in_flight.room.note_closed(calls.open, now)
        planned = plan_calls(loop.names, owned, closes=closes, replies=loop.parts.answers.of, settings=loop.settings, timelines=loop.timelines)
        if planned is None:
            return False
        loop.commits.settle()
        owned.on(Event.SENT)
        began = loop.clock.monotonic()
        try:
            sent = loop.commits.begin(owned, planned.planned.commit)
        except (redis.ResponseError, redis.DataError, CommitTooLarge) as error:
            if self.in_flight.narrow(owned, planned, error):
                return True
            raise
        loop.commits.pending = PendingCommit(owned, planned.batch, planned.outcome, planned.planned, sent, began, planned)
        return True

    # Partitions that go.

    def wound_down(self, leases: Mapping[str, int]) -> dict[str, int]:
        """Of partitions to release, those whose calls have ended, or had `PARTITIONS_STOP_SECONDS` for it. The others start no calls."""
        gone = {}
        for kept in self.loop.owned_partitions.values():
            if kept.partition not in leases and kept.calls is not None and kept.calls.leaving_since is not None:
                kept.calls.leaving_since = None  # the worker that was to get it is gone
                self.in_flight.let_go_on(kept.calls)
        for partition, token in leases.items():
            owned = self.loop.owned_partitions.get(partition)
            if owned is None or owned.lease.token != token or self.is_wound_down(owned):
                gone[partition] = token
        return gone

    def is_wound_down(self, owned: OwnedPartition) -> bool:
        calls = self.in_flight.of(owned)
        now = self.loop.clock.monotonic()
        if calls.leaving_since is None:
            calls.leaving_since = now
            self.in_flight.stop(calls)
        self.in_flight.collect(owned)
        is_late = now - calls.leaving_since >= self.loop.settings.stop_seconds
        if not is_late and any(not run.is_over for run in calls.runs.values()):
            return False
        self.commit(owned, last=True)
        self.loop.commits.settle()
        return True

    def end(self, *, dropping: bool) -> None:
        """The worker stops. Unless it is `dropping`, wait for the calls in flight, and commit their results."""
        loop = self.loop
        try:
            left = [] if dropping else list(loop.owned_partitions.values())
            while left and not loop.is_dropping:
                left = [owned for owned in left if owned.partition in loop.owned_partitions and not self.is_wound_down(owned)]
                for owned in left:
                    self.attend(owned)
                    self.commit(owned)
                loop.commits.settle()
                if left:
                    loop.waiting.wait([], LOOK_SECONDS)
        finally:
            self.in_flight.calls.end()
