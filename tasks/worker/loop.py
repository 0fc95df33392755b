"""The loop of a partition worker: for each unit in turn, take a batch, read it, load its states, step, commit.

It runs in a thread of its own, so that Celery's main loop goes on answering. It ends when it is told to, never by itself:
what a message, a state or the server does to it, it says so, rests, and goes on.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Container
from contextlib import suppress
from typing import assert_never

import redis

from celery_partitions.model.errors import say
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.reading import Item, Ordinary, Reading, Skipped, condemned, read_batch
from celery_partitions.producer.installation import Installation
from celery_partitions.store.client import UNWELL, connect
from celery_partitions.store.commits import Commit, CommitStore, CommitTooLarge, CommitUnderWay, Reply, pushed_to
from celery_partitions.store.leases import Lease, Share, release
from celery_partitions.store.parking import read_mailbox
from celery_partitions.store.results import START_CHORD
from celery_partitions.worker.committing import UnderWay, plan_commit
from celery_partitions.worker.dropping import drop_seen
from celery_partitions.worker.flushing import NotDelivered, flush, prepare
from celery_partitions.worker.lane import Batch, Lane, idle_lanes
from celery_partitions.worker.loading import load_parked, load_states
from celery_partitions.worker.logs import told
from celery_partitions.worker.one_by_one import LeaseLost, alone, outlived
from celery_partitions.worker.ordinary import OrdinaryRun, outcome_of
from celery_partitions.worker.outage import Outage
from celery_partitions.worker.replies import Replies
from celery_partitions.worker.reports import Reports
from celery_partitions.worker.stalls import StallDetector
from celery_partitions.worker.stepping import Stepping
from celery_partitions.worker.telling import Telling
from celery_partitions.worker.turns import Turns
from celery_partitions.worker.unwritable import narrow, narrowed, widen
from celery_partitions.worker.watch import Watch
from celery_partitions_config.settings import Settings

logger = logging.getLogger("celery.worker.partitions")

#: A busy loop looks this often for messages on idle partitions: much shorter than a batch, and long beside the 10 µs that it takes.
POLL_SECONDS = 0.005
#: A commit on which the connection broke so often, while the server answers, is one that the server refuses.
REFUSALS = 3
#: A plain Celery task that takes longer is named in the log. Five batches of a busy partition.
SLOW_TASK_SECONDS = 1.0
#: After a fault of one unit, or of the loop itself, before it is tried again. Shorter than a lease.
REST_SECONDS = 0.5
#: While the server does not answer and the worker was told to end: so long a commit is tried to be brought in.
LAST_TRY_SECONDS = 3.0


class Dropped(Exception):
    """The worker was told to end at once: what is not committed stays in its queue."""


class PartitionLoop(threading.Thread):
    """Owns the lanes. Told its share by the lease keeper (`follow`), and to end by the boot step (`finish`, `drop`)."""

    def __init__(
        self,
        installation: Installation,
        worker: str,
        reports: Reports,
        run_ordinary: Callable[[bytes], OrdinaryRun],
        revoked: Container[str],
    ) -> None:
        super().__init__(name="partition-loop", daemon=True)
        self.installation, self.worker, self.reports = installation, worker, reports
        self.run_ordinary, self.revoked = run_ordinary, revoked
        self.settings: Settings = installation.settings
        self.names = installation.group.names
        self.codec = installation.group.codec
        self.client = connect(self.settings)
        self.store = CommitStore.of(self.client, self.names, self.settings)
        self.watch = Watch(self.client, self.names)
        self.lanes: dict[str, Lane] = {}
        self.on_refusal: Callable[[], None] = lambda: None
        self._share = self._followed = Share({}, (), None)
        self._gone: set[tuple[str, int]] = set()
        self._finishing = self._dropping = False
        self._turns = Turns()
        #: Plain tasks that were named as slow.
        self._slow_tasks: set[str] = set()
        #: By the monotonic clock.
        self._next_poll = 0.0
        #: At most one commit is under way while another unit's batch is stepped; a unit never has two.
        self.under_way: UnderWay | None = None
        self.outage = Outage()
        #: Started by the boot step.
        self.stalls = StallDetector()
        self.replies = Replies(installation, reports.node)
        self.telling = Telling(self.replies)
        writer = installation.message_writer(worker)
        self.stepping = Stepping(self.settings, self.names, worker, self.codec.pickling(), writer, self.replies.answer)

    # What other threads call.

    def follow(self, share: Share) -> None:
        """The worker's share, told anew by the lease keeper."""
        self._share = share
        self.watch.wake()

    def finish(self) -> None:
        """End after the batch under way is committed."""
        self._finishing = True
        self.watch.wake()

    def drop(self) -> None:
        """End without committing what is under way."""
        self._dropping = self._finishing = True
        self.watch.wake()

    # The loop.

    def run(self) -> None:
        while not self._finishing:
            try:
                self.take_up_share()
                self.poll()
                lane = self.next_lane()
                if lane is not None:
                    self.work(lane)
                elif self.under_way is not None:
                    self.settle()
                else:
                    self.wait()
            except Dropped:
                break
            except (redis.RedisError, OSError) as error:
                self.rest(error)
            except Exception:
                logger.exception("partitions: the loop goes on after an error of its own")
                time.sleep(REST_SECONDS)
        with suppress(Dropped, redis.RedisError, OSError):
            self.settle()
        self.watch.destroy()
        self.reports.close()
        self.client.close()

    def work(self, lane: Lane) -> None:
        """One batch of one unit, from its queue or from a parked key's mailbox, to its commit."""
        began = time.monotonic()
        batch = outcome = None
        try:
            batch = self.take_batch(lane)
            if batch is None:
                return
            batch = narrowed(lane, batch)
            batch = alone(self.client, self.names, lane, batch, self.settings)
            self.stalls.reset()
            items = self.read(lane, batch)
            self.load_states(lane, items)
            outcome = self.step(lane, batch, items)
            if outcome.ordinary is not None and outcome.taken == 0:
                outcome = self.run_celery_task(lane, outcome.ordinary)
            lane.stalled = self.stalls.longest_seconds() > self.settings.lease_seconds / 2
            flush(self.installation.computations, outcome)
            self.commit(lane, batch, items, outcome)
        except LeaseLost:
            self.lose(lane)
        except (Dropped, *UNWELL):
            lane.forget_all()
            raise
        except Exception as error:
            if batch is None or not self.set_apart(lane, batch, outcome, error):
                self.give_rest(lane, error)
        finally:
            self._turns.charge(lane, time.monotonic() - began)

    def set_apart(self, lane: Lane, batch: Batch, outcome: Outcome | None, error: Exception) -> bool:
        """Look for the message whose outcome can't be written. False: the reason is no message."""
        searching = lane.largest_batch is not None or lane.unwritable is not None
        if not narrow(lane, batch, outcome, error):
            return False
        if searching:
            return True
        text = "partition %s: the outcome of a batch can't be written (%s); the message that causes it becomes a dead letter"
        known = isinstance(error, redis.RedisError | CommitTooLarge)
        logger.warning(text, lane.unit, say(error), exc_info=not known, extra=told(lane.unit))
        return True

    def give_rest(self, lane: Lane, error: Exception) -> None:
        """A fault of one unit: begin again from Redis, a little later."""
        lane.forget_all()
        lane.rest_until = time.monotonic() + (error.rest_seconds if isinstance(error, NotDelivered) else REST_SECONDS)
        if str(error) != lane.fault:  # said once, however long it lasts
            lane.fault = str(error)
            known = isinstance(error, redis.RedisError | NotDelivered)
            text = "partition %s: %s; trying until it works"
            logger.error(text, lane.unit, error, exc_info=not known, extra=told(lane.unit))

    def take_batch(self, lane: Lane) -> Batch | None:
        """The next messages: a parked key's when its retry is due, else the queue's oldest."""
        delayed_is_due = not lane.unknown and not lane.messages
        if lane.unknown and not self.peek(lane):
            return None
        if lane.parked_unknown:  # after the peek, whose revision tells whether it is out of date
            self.read_parked(lane)
        if lane.paused:
            return None
        key = lane.due_key()
        if key is not None:
            most = self.settings.batch_messages // 10 or 1
            messages, length = read_mailbox(self.client, self.names, lane.unit, key, most)
            return Batch(messages, key, lane.parked[key].attempt, length)
        if delayed_is_due and (not self.peek(lane) or lane.parked_unknown):
            return None
        return Batch(lane.messages) if lane.messages else None

    def peek(self, lane: Lane) -> bool:
        """Look at the head of the queue. What is in memory holds only while the unit is where its last commit left it."""
        reply = self.store.peek(lane.lease)
        if reply.status == "ok" and not lane.is_where_it_was(reply):
            lane.forget_all()
        return self.judge(lane, reply)

    def read(self, lane: Lane, batch: Batch) -> list[Item]:
        if lane.reading is None:
            known, ordinary = self.installation.computations, self.reports.ordinary_tasks
            most = self.settings.message_bytes
            lane.reading = Reading(
                known, ordinary, lane.partition, self.settings.partitions, most, self.codec.load_value
            )
        items = read_batch(batch.messages, lane.reading, now=lane.server_now(), revoked=self.revoked)
        items = drop_seen(self.client, self.names, self.installation.computations, lane, batch, items)
        if batch.condemned is not None and not isinstance(items[0], Skipped):  # a duplicate would be no killer's letter
            return [condemned(items[0], batch.condemned.error, batch.condemned.reason)]
        return items

    def load_states(self, lane: Lane, items: list[Item]) -> None:
        load_states(self.client, self.names, self.codec, self.installation.computations, lane, items)

    def step(self, lane: Lane, batch: Batch, items: list[Item]) -> Outcome:
        return self.stepping.step(
            items,
            lane.cache.young,
            self.stepping.rules_for(lane),
            parked=lane.parked,
            mailbox_lengths=lane.mailbox_lengths,
            mailbox_of=batch.mailbox_of,
            attempt=batch.attempt,
            failed=batch.failed,
        )

    def commit(self, lane: Lane, batch: Batch, items: list[Item], outcome: Outcome) -> None:
        """Write the outcome; take the next batch from the answer."""
        if outcome.dead or outcome.parked or outcome.skipped:
            outcome.commands += self.telling.told(lane, batch, outcome)
        most, most_ids = self.settings.batch_messages, self.settings.deduplicate_ids
        planned = plan_commit(self.names, lane, batch, items, outcome, most=most, most_ids=most_ids)
        if planned is not None:
            self.settle()
            self.under_way = UnderWay(lane, batch, outcome, planned, self.begin(planned.commit))

    def begin(self, commit: Commit) -> CommitUnderWay | None:
        """Send a commit; None when that failed, and it is to be sent again."""
        if self._dropping:
            raise Dropped
        try:
            return self.store.begin(commit)
        except UNWELL as error:
            self.rest(error)
            return None

    def settle(self) -> None:
        """Wait for the commit under way, and make true here what it made true in Redis."""
        under_way, self.under_way = self.under_way, None
        if under_way is None:
            return
        lane = under_way.lane
        try:
            reply = self.answer(under_way)
        except (redis.ResponseError, CommitTooLarge) as error:
            if not self.set_apart(lane, under_way.batch, under_way.outcome, error):
                self.give_rest(lane, error)
            return
        except BaseException:
            lane.forget_all()
            raise
        if reply.status == "wrongtype" and self.avoid_bad_queues(under_way, reply.culprit):
            lane.forget_all()
        elif self.judge(lane, reply):
            self.outage.over()
            widen(lane, self.settings.batch_messages)
            planned = under_way.planned
            lane.follow(under_way.outcome, planned.parked, planned.ended, planned.commit.mailbox_of)
            held = sum(one.partition is not None for one in self.lanes.values())
            lane.cache.trim(self.settings.state_cache_keys // max(1, held))
            self.reports.committed(under_way)
            self.reports.flush_if_due()

    def answer(self, under_way: UnderWay) -> Reply:
        """A commit's answer: after a lost reply the same commit is sent again, which changes nothing twice."""
        give_up: float | None = None
        sent, failures = under_way.sent, 0
        while True:
            if self._dropping:
                raise Dropped
            try:
                reply = self.store.send(under_way.planned.commit) if sent is None else self.store.finish(sent)
            except UNWELL as error:
                sent = None
                if self._finishing:
                    give_up = give_up or time.monotonic() + LAST_TRY_SECONDS
                    if time.monotonic() > give_up:
                        raise
                self.rest(error)
                failures += 1
                if failures >= REFUSALS and self.store.is_refused(under_way.planned.commit):
                    raise CommitTooLarge("the server closes the connection on which the commit comes") from error
            else:
                return reply

    def avoid_bad_queues(self, under_way: UnderWay, culprit: str) -> bool:
        """Whether a commit was refused for what follows its messages. Then all of that is looked at, and these messages fail."""
        queues = pushed_to(under_way.outcome)
        if culprit not in queues:
            return False
        self.replies.avoid(culprit)
        for queue in self.store.no_lists(queues):
            self.replies.avoid(queue)
        return True

    def judge(self, lane: Lane, reply: Reply) -> bool:
        """What an answer of the commit script means for the lane; True: it is written, and the next batch is here."""
        match reply.status:
            case "ok" | "already":
                lane.take_reply(reply)
                return True
            case "fenced":
                self.lose(lane)
            case "moved" | "stale":
                text = "partition %s: changed from outside (%s); reading it anew"
                logger.info(text, lane.unit, reply.status, extra=told(lane.unit))
                lane.forget_all()
            case "wrongtype":
                text = "partition %s: Redis key %s holds another type, or may not be written; mend or delete it, or let this user write it"
                logger.error(text, lane.unit, reply.culprit, extra=told(lane.unit))
                self.replies.avoid(reply.culprit)
                lane.forget_all()
                lane.rest_until = time.monotonic() + REST_SECONDS
            case _:
                assert_never(reply.status)
        return False

    def lose(self, lane: Lane) -> None:
        """Another worker has taken over: nothing of ours is written any more."""
        self.reports.fenced(lane.unit)
        outlived(self.client, self.names, lane, stalled=lane.stalled)
        self.close_lane(lane)
        self.on_refusal()

    def run_celery_task(self, lane: Lane, item: Ordinary) -> Outcome:
        """A plain Celery task, run where it stands in the order, by Celery's own tracer; at least once."""
        if item.headers.task == START_CHORD:
            return self.replies.start_chord(lane.unit, item)
        began = time.monotonic()
        run = self.run_ordinary(item.raw)
        self.warn_if_slow(lane, item, time.monotonic() - began)
        return outcome_of(run, item, self.names.queue(lane.unit))

    def warn_if_slow(self, lane: Lane, item: Ordinary, seconds: float) -> None:
        """All partitions of a worker wait while it runs a plain task. Say so once for each task."""
        name = item.headers.task
        if seconds > SLOW_TASK_SECONDS and name not in self._slow_tasks:
            self._slow_tasks.add(name)
            text = "partition %s: the plain task %s took %.1f s, and every partition of this worker waited. Send it to a queue of its own"
            logger.warning(text, lane.unit, name, seconds, extra=told(lane.unit, task=name))

    # Between batches.

    def take_up_share(self) -> None:
        """Open lanes for new leases, close lost ones, release what is more than the share."""
        share = self._share
        if share is self._followed:
            return
        self.outage.renewed(share)
        self.settle()
        held_before = set(self.lanes)
        held = {unit: token for unit, token in share.owned.items() if (unit, token) not in self._gone}
        for lane in list(self.lanes.values()):
            if held.get(lane.unit) != lane.lease.token:
                self.close_lane(lane)
        surplus = share.surplus(self._gone)
        if surplus:
            for unit, token in surplus.items():
                held.pop(unit, None)
                self._gone.add((unit, token))
                if unit in self.lanes:
                    self.close_lane(self.lanes[unit])
            release(self.client, self.names, self.worker, surplus)
        for unit, token in held.items():
            if unit not in self.lanes:
                self.lanes[unit] = Lane(Lease(unit, token))
        for unit, lane in self.lanes.items():
            lane.told(share.revisions.get(unit, 0), unit in share.paused)
        self.stepping.policies.follow(share.policies)
        if set(self.lanes) != held_before:
            logger.info("partitions held: %s", ", ".join(map(self.names.queue_name, sorted(self.lanes))) or "none")
        self._followed = share

    def read_parked(self, lane: Lane) -> None:
        load_parked(self.client, self.names, lane)

    def close_lane(self, lane: Lane) -> None:
        """No more of this unit under this token; nothing is written."""
        self._gone.add((lane.unit, lane.lease.token))
        self.lanes.pop(lane.unit, None)
        self.watch.drop(lane.unit)

    def next_lane(self) -> Lane | None:
        """The partition to work on now: of those with something to do, the one that has had the least time."""
        return self._turns.next(lane for lane in self.lanes.values() if lane.is_ready() and not self.is_under_way(lane))

    def is_under_way(self, lane: Lane) -> bool:
        return self.under_way is not None and self.under_way.lane is lane

    def wait(self) -> None:
        """Nothing is ready: wait for a message, until something delayed is due, or until another thread wakes the loop."""
        idle, seconds = idle_lanes(self.lanes.values())
        if any(lane.partition is not None for lane in idle):
            prepare(self.installation.computations)
        flush_in = self.reports.flush_if_due()
        self.listen(idle, seconds if flush_in is None else min(seconds, flush_in))

    def poll(self) -> None:
        """Take in the messages that came to idle partitions, without waiting. The others may never let the loop be idle."""
        now = time.monotonic()
        if now >= self._next_poll:
            self._next_poll = now + POLL_SECONDS
            self.reports.flush_if_due()
            idle, _ = idle_lanes(lane for lane in self.lanes.values() if not self.is_under_way(lane))
            self.listen([lane for lane in idle if not lane.is_ready()], 0.0)

    def listen(self, idle: list[Lane], seconds: float) -> None:
        """Wait at most `seconds` for messages on the idle partitions."""
        for lane in idle:
            if not self.watch.is_watching(lane.unit):
                lane.watched_at = lane.position
        for unit, head in self.watch.wait([lane.unit for lane in idle], seconds).items():
            lane = self.lanes[unit]
            if isinstance(head, redis.ResponseError):
                self.give_rest(lane, head)
            elif lane.messages or self.is_under_way(lane):
                pass  # its next messages are known, or come with the commit's answer
            elif head is not None and lane.watched_at == lane.position:
                lane.messages = [head]
            else:
                lane.unknown = True

    def rest(self, error: Exception) -> None:
        """The server does not answer, or refuses: say so once, and wait, each time a little longer."""
        seconds = self.outage.goes_on(error, self._share, quietly=self._finishing)
        self.watch.close()
        for lane in self.lanes.values():
            lane.unknown = True  # the server may come back with older data: each is peeked at before it goes on
        if not self._dropping:
            time.sleep(seconds)
