"""The loop of a partition worker: for each partition in turn, take a batch, read it, load its states, step, commit.

It runs in its own thread, so that Celery's main loop keeps answering. It stops only when asked to. After an error caused by a
message, a state or the server it logs the error, waits and continues.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from contextlib import suppress
from functools import partial

import redis

from celery_partitions.model.fairness import turn_messages
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.client import SERVER_ERRORS, reserve
from celery_partitions.store.leases import Share
from celery_partitions.store.server import has_other_databases
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.batch_reader import BatchReader
from celery_partitions.worker.call_turns import CallTurns
from celery_partitions.worker.courier import Courier
from celery_partitions.worker.due_turns import DueTurns
from celery_partitions.worker.foreign_consumers import ForeignConsumers
from celery_partitions.worker.holdings import Holdings
from celery_partitions.worker.isolation import LeaseLost, alone, end_try
from celery_partitions.worker.listening import idle_partitions, listen
from celery_partitions.worker.loop_commits import Dropped, LoopCommits
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import State
from celery_partitions.worker.parts import LoopParts
from celery_partitions.worker.resizing import Resizing
from celery_partitions.worker.retries import Retry, merged, one_if_one, step_each
from celery_partitions.worker.timelines import Timelines
from celery_partitions.worker.turns import Turns
from celery_partitions.worker.unwritable import narrowed

logger = logging.getLogger("celery.worker.partitions")

#: How often a busy loop checks idle partitions for messages: much shorter than a batch, and much longer than the 10 µs it takes.
POLL_SECONDS = 0.005
#: What a busy loop needs at once: a commit in flight, another command, and the read that waits for messages.
CONNECTIONS = 3
#: A turn is charged at most so much for what it waits for the only server: longer than the slowest script, and than large states take.
MAX_CHARGED_WAIT_SECONDS = 1.0


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
        self.waiting, self.runner, self.faults, self.observer, self.stalls = parts.waiting, parts.runner, parts.faults, parts.observer, parts.stalls
        self.reader, self.holdings, self.commits = BatchReader(installation, parts), Holdings(self), LoopCommits(self)
        self.owned_partitions: dict[str, OwnedPartition] = {}
        self.wake_keeper: Callable[[], None] = lambda: None
        self.is_finishing = self.is_dropping = False
        self._turns, self.due_turns = Turns(), DueTurns(self.clock.monotonic)
        #: How long the calls of the current turn took.
        self._computed_seconds = 0.0
        self.resizing = Resizing(self)
        self._next_poll = 0.0  # by the monotonic clock
        self.foreign_consumers = ForeignConsumers(
            self.names, self.clock.monotonic, self.observer.removed, partial(has_other_databases, self.client)
        )
        #: Calls outside the loop's thread. None: every computation is plain.
        self.calls: CallTurns | None = None
        self.timelines = Timelines.of(self.settings, worker)
        #: Sends what commits have for other servers. None: there is one server.
        self.courier = Courier(self.client, self.names, self.store.replicas, self.clock.monotonic) if self.names.is_spread else None

    # Called by other threads.

    def follow(self, share: Share) -> None:
        """Take the worker's new share from the lease keeper."""
        self.holdings.share = share
        self.waiting.wake()

    def finish(self) -> None:
        """Stop after the current batch is committed."""
        self.is_finishing = True
        self.waiting.wake()

    def lacks(self) -> list[tuple[str, str]]:
        """(partition, task) for messages that wait for a task that this worker does not know. Not all, if they are many."""
        return self.reader.lacks(list(self.owned_partitions.values()))

    def drop(self) -> None:
        """Stop without committing the current batch."""
        self.is_dropping = self.is_finishing = True
        self.waiting.wake()

    # The loop.

    def run(self) -> None:
        while not self.is_finishing:
            try:
                self.holdings.take_up_share()
                self.poll()
                owned = self.next_partition()
                if owned is not None:
                    self.work(owned)
                elif self.commits.pending is not None:
                    self.commits.settle()
                else:
                    self.wait()
            except Dropped:
                break
            except (redis.RedisError, OSError) as error:
                self.rest(error)
            except Exception:
                self.faults.of_loop()
        with suppress(Dropped, redis.RedisError, OSError):
            self.commits.settle()
        if self.calls is not None:
            with suppress(Dropped, redis.RedisError, OSError):
                self.calls.end(dropping=self.is_dropping)
        self.waiting.destroy()
        self.observer.close()
        self.client.close()

    def work(self, owned: OwnedPartition) -> None:
        """Process one batch of one partition, from its queue or a parked key's mailbox, up to sending its commit."""
        began, self._computed_seconds = self.clock.monotonic(), 0.0
        if self.attend(owned):
            self._charge(owned, began)
            return
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
            if owned.trying:
                end_try(self.client, self.names, owned)
            if owned.to_isolate or owned.is_searching:
                batch = one_if_one(alone(self.client, self.names, owned, narrowed(owned, batch), self.settings))
            self.stalls.reset()
            items = self.reader.states(owned, self.reader.items(owned, batch))
            self.due_turns.saw(items)
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
            owned.stalled = self.stalls.longest_seconds() > self.settings.lease_seconds
            if self.peer is not None and outcome.done:
                self.peer.write([work.message for work in outcome.done])
            if self.calls is not None and division is not None and self.calls.begin(owned, batch, items, division, outcome):
                return
            self.commits.send(owned, batch, items, outcome, retries)
        except LeaseLost:
            self.holdings.lose(owned)
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
            self.due_turns.took(self.clock.monotonic() - began)
            owned.charge_turn(self._charge(owned, began), batch, at_most=self.settings.batch_seconds)

    def _charge(self, owned: OwnedPartition, began: float) -> float:
        """Charge a partition for its turn. Its calls count in full, and an outage hardly: the others would be served for as long before it."""
        waited = self.clock.monotonic() - began - self._computed_seconds
        if not self.names.is_spread:  # else it keeps partitions on other servers waiting
            waited = min(waited, MAX_CHARGED_WAIT_SECONDS)
        return self._turns.charge(owned, self._computed_seconds + waited)

    def go_behind(self, owned: OwnedPartition) -> None:
        """A partition has nothing to do but to wait for others: those that are ready have their turn first."""
        self._turns.go_behind(owned, self.owned_partitions.values())

    def attend(self, owned: OwnedPartition) -> bool:
        """Do what a resize asks of the partition. True: its turn is over."""
        try:
            return self.resizing.attend(owned)
        except Dropped:
            raise
        except LeaseLost:
            self.holdings.lose(owned)
        except SERVER_ERRORS as error:
            owned.forget_all()
            if not self.names.is_spread:
                raise
            self.faults.of_partition(owned, error)  # partitions on other servers go on
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
        if owned.is_turn_of_retries():
            return self.reader.retries(owned, self.holdings.share.known_elsewhere)
        if owned.calls is not None and owned.calls.open is not None:
            return None
        if delayed_is_due and (self.due_turns.put_off(owned) or not self.peek(owned, for_due=True) or owned.state is not State.KNOWN or self.resizing.must_attend(owned)):
            return None
        if owned.calls is not None and self.calls is not None:
            return self.calls.in_flight.next_batch(owned)
        return Batch(owned.messages) if owned.messages else None

    def peek(self, owned: OwnedPartition, *, for_due: bool = False) -> bool:
        """Read the head of the queue. Memory is discarded unless the partition is as this worker's last commit left it."""
        self.store.max_due = self.due_turns.limit(owned, is_group=for_due)
        reply = self.store.peek(owned.lease)
        if reply.status == "ok" and not owned.is_where_it_was(reply):
            owned.forget_all()
        elif owned.had_message and reply.status == "ok":
            self.foreign_consumers.peeked(owned, reply)
        return self.commits.judge(owned, reply)

    def step(self, owned: OwnedPartition, batch: Batch, items: list[Item]) -> Outcome:
        began = self.clock.monotonic()
        try:
            outcome = self.runner.step(owned, batch, items)
        finally:
            self._computed_seconds += self.clock.monotonic() - began
        if batch.ready and outcome.began:
            owned.turn_messages = turn_messages(len(outcome.done), outcome.ended - outcome.began[0], self.settings.batch_messages)
        return outcome

    def run_celery_task(self, owned: OwnedPartition, items: list[Item]) -> Outcome:
        """Run a plain Celery task, or follow-ups, in their place in the order. At least once."""
        began = self.clock.monotonic()
        try:
            return self.parts.tasks.run(owned, items)
        finally:
            self._computed_seconds += self.clock.monotonic() - began

    # Between batches.

    def next_partition(self) -> OwnedPartition | None:
        """The ready partition that has used the least time; None if none is ready."""
        return self._turns.next([owned for owned in self.owned_partitions.values() if owned.is_ready()])

    def wait(self) -> None:
        """Wait for a message, a delayed message that falls due, or a wake-up by another thread."""
        if self.faults.is_on:
            self.reconnect()
        idle, seconds = idle_partitions(self.owned_partitions.values(), self.clock.monotonic())
        if self.due_turns.holds:  # others had their turns: a last look for more of them
            self.listen(idle, 0.0)
            if not any(owned.is_ready() for owned in self.owned_partitions.values()):
                self.due_turns.go_on()
            return
        if self.peer is not None and any(owned.number is not None for owned in idle):
            self.peer.prepare()
        due_in = self.observer.flush_if_due(), None if self.courier is None else self.courier.attend(self.owned_partitions.values())
        self.listen(idle, min([seconds, *(one for one in due_in if one is not None)]))

    def reconnect(self) -> None:
        """After an error, and at the start: get all connections that the loop needs. The lease keeper claims nothing without them."""
        reserve(self.client, CONNECTIONS)
        self.faults.reached(self.holdings.share)
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
        self.faults.of_server(error, self.holdings.share, quietly=self.is_finishing, wait=not self.is_dropping)
