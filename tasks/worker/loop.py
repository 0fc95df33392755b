"""The loop of a partition worker: for each partition in turn, take a batch, read it, load its states, step, commit.

It runs in its own thread, so that Celery's main loop keeps answering. It stops only when asked to. After an error caused by a
message, a state or the server it logs the error, waits and continues.
"""

from __future__ import annotations

import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import assert_never

import redis

from celery_partitions.model.fairness import turn_messages
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import SERVER_ERRORS, reserve
from celery_partitions.store.commits import Commit, CommitTooLarge, Reply, SentCommit
from celery_partitions.store.leases import Lease, Share, release
from celery_partitions.store.outbox import Outbox
from celery_partitions.worker.batch_reader import BatchReader
from celery_partitions.worker.call_turns import CallTurns
from celery_partitions.worker.courier import Courier
from celery_partitions.worker.foreign_consumers import ForeignConsumers
from celery_partitions.worker.in_flight_commit import calls_committed
from celery_partitions.worker.isolation import LeaseLost, alone, withdraw_crash
from celery_partitions.worker.listening import idle_partitions, listen
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import Batch, OwnedPartition
from celery_partitions.worker.partition_state import Event, State
from celery_partitions.worker.parts import LoopParts
from celery_partitions.worker.planned_commit import PendingCommit, plan_commit
from celery_partitions.worker.resizing import Resizing
from celery_partitions.worker.retries import Retry, merged, one_if_one, step_each
from celery_partitions.worker.timelines import Timelines
from celery_partitions.worker.turns import Turns
from celery_partitions.worker.unwritable import narrowed, widen

logger = logging.getLogger("celery.worker.partitions")

#: How often a busy loop checks idle partitions for messages: much shorter than a batch, and much longer than the 10 µs it takes.
POLL_SECONDS = 0.005
#: What a busy loop needs at once: a commit in flight, another command, and the read that waits for messages.
CONNECTIONS = 3
#: If the connection breaks this often during one commit while the server answers, the server refuses that commit.
REFUSALS = 3
#: How long a stopping worker keeps trying to write a commit while the server does not answer.
LAST_TRY_SECONDS = 3.0


class Dropped(Exception):
    """The worker must stop immediately. Uncommitted messages stay in their queues."""


class PartitionLoop(threading.Thread):
    """Processes the partitions that this worker owns.

    The lease keeper passes it the worker's share (`follow`); the boot step stops it (`finish`, `drop`). `parts`: everything that it reads,
    writes, waits for or asks the time of.
    """

    def __init__(self, installation: Installation, worker: str, parts: LoopParts) -> None:
        super().__init__(name="partition-loop", daemon=True)
        self.installation, self.worker, self.parts, self.peer = installation, worker, parts, installation.peer
        self.settings, self.names, self.codec = installation.settings, installation.group.names, installation.group.codec
        self.client, self.store, self.clock = parts.client, parts.store, parts.clock
        self.waiting, self.runner, self.faults, self.observer = parts.waiting, parts.runner, parts.faults, parts.observer
        self.reader = BatchReader(installation, parts)
        self.owned_partitions: dict[str, OwnedPartition] = {}
        self.wake_keeper: Callable[[], None] = lambda: None
        self._share = self._followed = Share({}, (), None)
        self._gone: set[tuple[str, int]] = set()
        self._finishing = self.is_dropping = False
        self._turns = Turns()
        self.resizing = Resizing(self)
        self._next_poll = 0.0  # by the monotonic clock
        #: The one commit that may be in flight while another partition's batch is stepped. A partition never has two.
        self.pending: PendingCommit | None = None
        self.foreign_consumers = ForeignConsumers(self.names, self.clock.monotonic, self.observer.removed)
        #: Calls outside the loop's thread. None: every computation is plain.
        self.calls: CallTurns | None = None
        self.timelines = Timelines.of(self.settings, worker)
        #: Sends what commits have for other servers. None: there is one server.
        self.courier = Courier(self.client, self.names, self.clock.monotonic) if self.names.is_spread else None

    # Called by other threads.

    def follow(self, share: Share) -> None:
        """Take the worker's new share from the lease keeper."""
        self._share = share
        self.waiting.wake()

    def finish(self) -> None:
        """Stop after the current batch is committed."""
        self._finishing = True
        self.waiting.wake()

    def lacks(self) -> list[tuple[str, str]]:
        """(partition, task) for messages that wait for a task that this worker does not know. Not all, if they are many."""
        return self.reader.lacks(list(self.owned_partitions.values()))

    def drop(self) -> None:
        """Stop without committing the current batch."""
        self.is_dropping = self._finishing = True
        self.waiting.wake()

    # The loop.

    def run(self) -> None:
        while not self._finishing:
            try:
                self.take_up_share()
                self.poll()
                owned = self.next_partition()
                if owned is not None:
                    self.work(owned)
                elif self.pending is not None:
                    self.settle()
                else:
                    self.wait()
            except Dropped:
                break
            except (redis.RedisError, OSError) as error:
                self.rest(error)
            except Exception:
                self.faults.of_loop()
        with suppress(Dropped, redis.RedisError, OSError):
            self.settle()
        if self.calls is not None:
            with suppress(Dropped, redis.RedisError, OSError):
                self.calls.end(dropping=self.is_dropping)
        self.waiting.destroy()
        self.observer.close()
        self.client.close()

    def work(self, owned: OwnedPartition) -> None:
        """Process one batch of one partition, from its queue or a parked key's mailbox, up to sending its commit."""
        if self.attend(owned):
            return
        began = self.clock.monotonic()
        batch = outcome = None
        try:
            if self.calls is not None and self.calls.attend(owned):
                return
            batch = self.take_batch(owned)
            if batch is None:
                if self.calls is not None:
                    self.calls.commit(owned)
                return
            if self.calls is not None and self.calls.in_flight.abandoned.hold(owned, batch):
                return
            batch = narrowed(owned, batch)
            batch = one_if_one(alone(self.client, self.names, owned, batch, self.settings))
            self.runner.begin()
            items = self.reader.states(owned, self.reader.items(owned, batch))
            retries, division = list[Retry](), None
            if batch.parts:
                retries = step_each(owned, batch, items, self.step, self.clock.monotonic, self.settings.batch_seconds)
                if not retries:
                    return
                outcome = merged(retries)
            else:
                if self.calls is not None:
                    division = self.calls.divide(owned, batch, items)
                    if division is None:
                        return
                outcome = self.step(owned, batch, items if division is None else division.items)
            if outcome.plain_task is not None and outcome.taken == 0:
                outcome = self.run_celery_task(owned, items)
            owned.stalled = self.runner.longest_stall_seconds() > self.settings.lease_seconds
            if self.peer is not None and outcome.done:
                self.peer.write([work.message for work in outcome.done])
            if self.calls is not None and division is not None and self.calls.begin(owned, batch, items, division, outcome):
                return
            self.commit(owned, batch, items, outcome, retries)
        except LeaseLost:
            self.lose(owned)
        except Dropped:
            owned.forget_all()
            raise
        except SERVER_ERRORS as error:
            owned.forget_all()
            if not self.names.is_spread:
                raise
            self.faults.of_partition(owned, error)  # partitions on other servers go on
        except Exception as error:
            self.faults.of_batch(owned, batch, outcome, error)
        finally:
            seconds = self._turns.charge(owned, self.clock.monotonic() - began)
            owned.charge_turn(seconds, batch, at_most=self.settings.batch_seconds)

    def charge(self, owned: OwnedPartition, seconds: float) -> None:
        """Count time that a partition has used outside a batch, so that others have their turn."""
        self._turns.charge(owned, seconds)

    def attend(self, owned: OwnedPartition) -> bool:
        """Do what a resize asks of the partition. True: its turn is over."""
        try:
            return self.resizing.attend(owned)
        except LeaseLost:
            self.lose(owned)
        except SERVER_ERRORS:
            owned.forget_all()
            raise
        except Exception as error:
            self.faults.of_batch(owned, None, None, error)
        return True

    def take_batch(self, owned: OwnedPartition) -> Batch | None:
        """The next messages: those of a parked key whose retry is due, else the oldest in the queue."""
        delayed_is_due = owned.state is State.KNOWN and not owned.messages
        if owned.must_peek and (not self.peek(owned) or self.resizing.must_attend(owned)):
            return None
        if self.courier is not None and not self.courier.may_take(owned):
            return None
        if owned.state is State.PEEKED:
            self.reader.parked(owned)
        if owned.paused or (owned.calls is not None and not owned.calls.may_start):
            return None
        if owned.must_read_due():
            self.reader.due(owned)
        retries = self.reader.retries(owned, self._share.known_elsewhere) if owned.is_turn_of_retries() else None
        if retries is not None:
            return retries
        if owned.calls is not None and owned.calls.open is not None:
            return None
        if delayed_is_due and (not self.peek(owned) or owned.state is not State.KNOWN or self.resizing.must_attend(owned)):
            return None
        if owned.calls is not None and self.calls is not None:
            return self.calls.in_flight.next_batch(owned)
        return Batch(owned.messages) if owned.messages else None

    def peek(self, owned: OwnedPartition) -> bool:
        """Read the head of the queue. Memory is discarded unless the partition is as this worker's last commit left it."""
        reply = self.store.peek(owned.lease)
        if reply.status == "ok" and not owned.is_where_it_was(reply):
            owned.forget_all()
        elif owned.had_message and reply.status == "ok":
            self.foreign_consumers.peeked(owned, reply)
        return self.judge(owned, reply)

    def step(self, owned: OwnedPartition, batch: Batch, items: list[Item]) -> Outcome:
        outcome = self.runner.step(owned, batch, items)
        if batch.ready and outcome.began:
            owned.turn_messages = turn_messages(len(outcome.done), outcome.ended - outcome.began[0], self.settings.batch_messages)
        return outcome

    def commit(self, owned: OwnedPartition, batch: Batch, items: list[Item], outcome: Outcome, retries: Sequence[Retry]) -> None:
        """Send the commit of an outcome. Its answer will bring the next batch. `retries`: see `plan_commit`."""
        for part in retries or [Retry(batch, items, outcome)]:
            one = part.outcome
            if one.answered or one.dead or one.parked or one.skipped:
                outcome.effects += self.parts.answers.of(owned, part.batch, one)
        planned = plan_commit(self.names, owned, batch, items, outcome, self.settings, self.timelines, retries)
        if planned is not None:
            self.settle()
            owned.on(Event.SENT)
            began = self.clock.monotonic()
            self.pending = PendingCommit(owned, batch, outcome, planned, self.begin(planned.commit), began)

    def begin(self, commit: Commit) -> SentCommit | None:
        """Send a commit. None: sending failed, and it must be sent again."""
        if self.is_dropping:
            raise Dropped
        try:
            return self.store.begin(commit)
        except SERVER_ERRORS as error:
            if self.names.is_spread:
                raise
            self.rest(error)
            return None

    def settle(self) -> None:
        """Wait for the commit in flight, and update memory with what it wrote to Redis."""
        pending, self.pending = self.pending, None
        if pending is None:
            return
        owned = pending.owned
        try:
            reply = self.answer(pending)
        except (redis.ResponseError, CommitTooLarge) as error:
            if self.calls is None or pending.calls is None or not self.calls.in_flight.narrow(owned, pending.calls, error):
                self.faults.of_batch(owned, pending.batch, pending.outcome, error)
            return
        except BaseException as error:
            owned.forget_all()
            if not self.names.is_spread or not isinstance(error, SERVER_ERRORS):
                raise
            self.faults.of_partition(owned, error)
            return
        # A commit asks for no messages if those in memory come next.
        kept = [] if pending.planned.commit.ask else owned.messages_after(pending.planned.commit)
        if reply.status == "moved" and pending.sent is not None and pending.batch.messages:  # else Redis may have lost data
            self.foreign_consumers.commit_refused(owned, pending.batch, reply)
        if self.judge(owned, reply):
            if kept and owned.state is State.KNOWN:
                owned.messages = kept
            if self.courier is not None and owned.outbox is not None:
                owned.outbox.written()
                self.courier.deliver(owned, owned.outbox)
            self.faults.written()
            widen(owned, self.settings.batch_messages)
            planned, lacked = pending.planned, bool(owned.lacks)
            owned.follow(pending.outcome, planned.parked, planned.ended, planned.taken_of)
            if owned.lacks and not lacked:
                self.wake_keeper()  # another worker may know the task
            if pending.calls is not None:
                calls_committed(owned, pending.calls)
            held = max(1, sum(one.number is not None for one in self.owned_partitions.values()))
            owned.cache.trim(self.settings.state_cache_keys // held, self.settings.state_cache_bytes // held)
            self.observer.committed(pending)
            self.observer.flush_if_due()

    def answer(self, pending: PendingCommit) -> Reply:
        """The answer to a commit. After a lost reply the same commit is sent again; it is idempotent."""
        give_up: float | None = None
        failures = 0
        while True:
            if self.is_dropping:
                raise Dropped
            try:
                reply = self.store.send(pending.planned.commit) if pending.sent is None else self.store.finish(pending.sent)
            except SERVER_ERRORS as error:
                pending.sent = None
                if self.names.is_spread:
                    raise  # the others go on. A peek will tell whether it was written
                if self._finishing:
                    give_up = give_up or self.clock.monotonic() + LAST_TRY_SECONDS
                    if self.clock.monotonic() > give_up:
                        raise
                self.rest(error)
                failures += 1
                if failures >= REFUSALS and self.store.is_refused(pending.planned.commit):
                    raise CommitTooLarge("the server closes the connection when it receives the commit") from error
            else:
                return reply

    def judge(self, owned: OwnedPartition, reply: Reply) -> bool:
        """Apply an answer of the commit script to the partition. True: the commit is written and the next batch is here."""
        match reply.status:
            case "ok" | "already":
                owned.take_reply(reply)
                return True
            case "fenced":
                self.lose(owned)
            case "moved" | "stale":
                text = "partition %s: changed since this worker read it (%s); reloading it"
                logger.info(text, owned.partition, reply.status, extra=log_fields(owned.partition))
                owned.forget_all()
            case "wrongtype":
                self.faults.of_key(owned, reply.culprit)
            case _:
                assert_never(reply.status)
        return False

    def lose(self, owned: OwnedPartition) -> None:
        """Close a partition that another worker has taken over."""
        self.observer.fenced(owned.partition)
        self.withdraw_crash(owned)
        self.close_partition(owned)
        self.wake_keeper()

    def withdraw_crash(self, owned: OwnedPartition) -> None:
        """The lease is lost, but this worker is alive: no message has killed it."""
        began = math.inf if owned.calls is None else owned.calls.suspects_began
        stalled = owned.stalled or self.runner.stalled_since(began, self.settings.lease_seconds)
        withdraw_crash(self.client, self.names, owned, stalled=stalled)

    def run_celery_task(self, owned: OwnedPartition, items: list[Item]) -> Outcome:
        """Run a plain Celery task, or follow-ups, in their place in the order. At least once."""
        return self.parts.tasks.run(owned, items)

    # Between batches.

    def take_up_share(self) -> None:
        """Open partitions with new leases, close lost ones, and release those beyond the share."""
        share = self._share
        if share is self._followed:
            return
        self.settle()
        if share.topology is not None:
            self.resizing.follow(share.topology)
        held_before = set(self.owned_partitions)
        held = {partition: token for partition, token in share.owned.items() if (partition, token) not in self._gone}
        for owned in list(self.owned_partitions.values()):
            if held.get(owned.partition) != owned.lease.token:
                self.withdraw_crash(owned)
                self.close_partition(owned)
        going = share.surplus(self._gone)
        surplus = going if self.calls is None else self.calls.wound_down(going)
        if surplus:
            for partition, token in surplus.items():
                held.pop(partition, None)
                self._gone.add((partition, token))
                if partition in self.owned_partitions:
                    self.close_partition(self.owned_partitions[partition])
            release(self.client, self.names, self.worker, surplus)
        for partition, token in held.items():
            if partition not in self.owned_partitions:
                owned = self.owned_partitions[partition] = OwnedPartition(Lease(partition, token), self.clock.monotonic)
                if self.courier is not None:
                    owned.outbox = Outbox.of_partition(self.names, partition)
        for partition, owned in self.owned_partitions.items():
            if partition in share.with_inbox and not owned.lease.inbox:
                owned.forget_all()  # it works on its inbox first
            owned.notify(share.edit_versions.get(partition, 0), partition in share.paused)
        if share.policies != self._followed.policies:
            self.runner.follow(share.policies)
            for owned in self.owned_partitions.values():
                owned.retry_limited()
        if set(self.owned_partitions) != held_before:
            in_order = sorted(self.owned_partitions, key=lambda partition: (len(partition), partition))  # 2 before 10
            logger.info("partitions held: %s", ", ".join(map(self.names.queue_name, in_order)) or "none")
        if len(surplus) == len(going):  # else look again: calls are in flight
            self._followed = share

    def close_partition(self, owned: OwnedPartition) -> None:
        """Stop processing this partition under this token. Writes nothing."""
        owned.on(Event.CLOSE)
        self._gone.add((owned.partition, owned.lease.token))
        self.owned_partitions.pop(owned.partition, None)
        if self.calls is not None:
            self.calls.in_flight.drop_all(owned)
        self.waiting.drop(owned.partition)

    def next_partition(self) -> OwnedPartition | None:
        """The ready partition that has used the least time; None if none is ready."""
        return self._turns.next(owned for owned in self.owned_partitions.values() if owned.is_ready())

    def wait(self) -> None:
        """Wait for a message, a delayed message that falls due, or a wake-up by another thread."""
        if self.faults.is_on:
            self.reconnect()
        idle, seconds = idle_partitions(self.owned_partitions.values(), self.clock.monotonic())
        if self.peer is not None and any(owned.number is not None for owned in idle):
            self.peer.prepare()
        due_in = self.observer.flush_if_due(), None if self.courier is None else self.courier.attend(self.owned_partitions.values())
        self.listen(idle, min([seconds, *(one for one in due_in if one is not None)]))

    def reconnect(self) -> None:
        """After an error, and at the start: get all connections that the loop needs. The lease keeper claims nothing without them."""
        reserve(self.client, CONNECTIONS)
        self.faults.reached(self._share)
        if not self.faults.is_on and not self.owned_partitions:
            self.wake_keeper()

    def poll(self) -> None:
        """Check idle partitions for messages without waiting, because busy partitions may never let the loop become idle."""
        now = self.clock.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self.observer.flush_if_due()
            if self.courier is not None:
                self.courier.attend(self.owned_partitions.values())
            idle, _ = idle_partitions(self.owned_partitions.values(), now)
            self.listen([owned for owned in idle if not owned.is_ready()], 0.0)

    def listen(self, idle: list[OwnedPartition], seconds: float) -> None:
        """Wait at most `seconds` for messages on the idle partitions."""
        listen(self.owned_partitions, idle, seconds, self.waiting, self.faults)

    def rest(self, error: Exception) -> None:
        """After a server error: wait, then look at every queue again."""
        self.waiting.close()
        for owned in self.owned_partitions.values():
            owned.look_again()  # the server may come back with older data
            owned.topology = None
        self.faults.of_server(error, self._share, quietly=self._finishing, wait=not self.is_dropping)
