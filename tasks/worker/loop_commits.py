"""The commits of a partition loop: sends one, waits for its answer, and brings memory to what it wrote to Redis.

One commit may be in flight while another partition's batch is stepped. A partition never has two.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, assert_never

import redis

from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.commits import Commit, CommitTooLarge, Reply, SentCommit
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.in_flight_commit import calls_committed
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import Event, State
from celery_partitions.worker.planned_commit import PendingCommit, plan_commit
from celery_partitions.worker.retries import Retry
from celery_partitions.worker.unwritable import widen

if TYPE_CHECKING:
    from celery_partitions.worker.loop import PartitionLoop

logger = logging.getLogger("celery.worker.partitions")

#: If the connection breaks this often during one commit while the server answers, the server refuses that commit.
REFUSALS = 3
#: How long a stopping worker keeps trying to write a commit while the server does not answer.
LAST_TRY_SECONDS = 3.0


class Dropped(Exception):
    """The worker must stop immediately. Uncommitted messages stay in their queues."""


class LoopCommits:
    """Made once per loop and used by its thread."""

    def __init__(self, loop: PartitionLoop) -> None:
        self.loop = loop
        #: The commit in flight.
        self.pending: PendingCommit | None = None

    def send(self, owned: OwnedPartition, batch: Batch, items: list[Item], outcome: Outcome, retries: Sequence[Retry]) -> None:
        """Send the commit of an outcome. Its answer will bring the next batch. `retries`: see `plan_commit`."""
        loop = self.loop
        for part in retries or [Retry(batch, items, outcome)]:
            one = part.outcome
            if one.answered or one.dead or one.parked or one.skipped:
                outcome.effects += loop.parts.answers.of(owned, part.batch, one)
        planned = plan_commit(loop.names, owned, batch, items, outcome, loop.settings, loop.timelines, retries)
        if planned is not None:
            self.settle()
            owned.on(Event.SENT)
            began = loop.clock.monotonic()
            self.pending = PendingCommit(owned, batch, outcome, planned, self.begin(owned, planned.commit), began)

    def begin(self, owned: OwnedPartition, commit: Commit) -> SentCommit | None:
        """Send a commit. None: sending failed, and it must be sent again."""
        loop = self.loop
        if loop.is_dropping:
            raise Dropped
        try:
            loop.store.max_due = loop.due_turns.limit(owned)
            return loop.store.begin(commit)
        except SERVER_ERRORS as error:
            if loop.names.is_spread:
                raise
            loop.rest(error)
            return None

    def settle(self) -> None:
        """Wait for the commit in flight, and update memory with what it wrote to Redis."""
        loop = self.loop
        pending, self.pending = self.pending, None
        if pending is None:
            return
        owned = pending.owned
        try:
            reply = self.answer(pending)
        except (redis.ResponseError, CommitTooLarge) as error:
            if loop.calls is None or pending.calls is None or not loop.calls.in_flight.narrow(owned, pending.calls, error):
                loop.faults.of_batch(owned, pending.batch, pending.outcome, error)
            return
        except BaseException as error:
            owned.forget_all()
            if not loop.names.is_spread or not isinstance(error, SERVER_ERRORS):
                raise
            loop.faults.of_partition(owned, error)
            return
        # A commit asks for no messages if those in memory come next.
        kept = [] if pending.planned.commit.ask else owned.messages_after(pending.planned.commit)
        if reply.status == "moved" and pending.sent is not None and pending.batch.messages:  # else Redis may have lost data
            loop.foreign_consumers.commit_refused(owned, pending.batch, reply)
        if self.judge(owned, reply):
            held = max(1, sum(one.number is not None for one in loop.owned_partitions.values()))
            if kept and owned.state is State.KNOWN:
                owned.messages = kept
            if loop.courier is not None and owned.outbox is not None:
                owned.outbox.written(lasts=reply.lasts)
                loop.courier.deliver(owned, owned.outbox)
            if loop.faults.is_on:
                loop.faults.written()
            if owned.is_searching:
                widen(owned, loop.settings.batch_messages)
            planned, lacked = pending.planned, bool(owned.lacks)
            owned.follow(pending.outcome, planned.parked, planned.ended, planned.taken_of)
            if owned.lacks and not lacked:
                loop.wake_keeper()  # another worker may know the task
            if pending.calls is not None:
                calls_committed(owned, pending.calls)
            owned.cache.trim(loop.settings.state_cache_keys // held, loop.settings.state_cache_bytes // held)
            loop.observer.committed(pending)
            loop.observer.flush_if_due()

    def answer(self, pending: PendingCommit) -> Reply:
        """The answer to a commit. After a lost reply the same commit is sent again; it is idempotent."""
        loop = self.loop
        give_up: float | None = None
        failures = 0
        while True:
            if loop.is_dropping:
                raise Dropped
            try:
                reply = loop.store.send(pending.planned.commit) if pending.sent is None else loop.store.finish(pending.sent)
            except SERVER_ERRORS as error:
                pending.sent = None
                if loop.names.is_spread:
                    raise  # the others go on. A peek will tell whether it was written
                if loop.is_finishing:
                    give_up = give_up or loop.clock.monotonic() + LAST_TRY_SECONDS
                    if loop.clock.monotonic() > give_up:
                        raise
                loop.rest(error)
                failures += 1
                if failures >= REFUSALS and loop.store.is_refused(pending.planned.commit):
                    raise CommitTooLarge("the server closes the connection when it receives the commit") from error
            else:
                return reply

    def judge(self, owned: OwnedPartition, reply: Reply) -> bool:
        """Apply an answer of the commit script to the partition. True: the commit is written and the next batch is here."""
        loop = self.loop
        match reply.status:
            case "ok" | "already":
                owned.take_reply(reply)
                loop.due_turns.answered(owned)
                return True
            case "fenced":
                loop.holdings.lose(owned)
            case "moved" | "stale":
                text = "partition %s: changed since this worker read it (%s); reloading it"
                logger.info(text, owned.partition, reply.status, extra=log_fields(owned.partition))
                owned.forget_all()
            case "wrongtype":
                loop.faults.of_key(owned, reply.culprit)
            case _:
                assert_never(reply.status)
        return False
