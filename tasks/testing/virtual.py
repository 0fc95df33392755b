"""The worker of a harness: the engine's own loop, with Redis in memory and a virtual clock.

It reuses the loop of a worker process to take batches, read, step, plan and commit. This module only adds the points at which that
process may die, and running each batch twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal, cast, get_args

from celery_partitions.model.caller import Call
from celery_partitions.model.effects import MoreEffects
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.step import StepRules, call_directly
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.commits import Commit, CommitStore, Reply
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import partitions_and_ingress
from celery_partitions.testing.keyspace import Keyspace, SortedSet
from celery_partitions.testing.memory import client_of
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.owned import Batch, OwnedPartition
from celery_partitions.worker.plain_tasks import PlainTaskRun
from celery_partitions.worker.planned_commit import PlannedCommit, UnderWay, plan_commit
from celery_partitions.worker.reports import Reports
from celery_partitions.worker.step_runner import StepRunner

#: The points of a batch at which a worker may die, in order. `Harness.crash` explains each.
CrashPoint = Literal[
    "before reading", "before the step", "in the step", "before the commit", "after the commit", "after the reply"
]
CRASH_POINTS: tuple[CrashPoint, ...] = get_args(CrashPoint)

#: After this many failed tries of a parked key without a wait between them, the retries count as endless.
MAX_TRIES = 1000
#: The clock advances by a millisecond after this many batches, so that a timer due a fraction later fires in the end.
BATCHES_PER_MILLISECOND = 1000


class HarnessError(Exception):
    """The harness was used wrongly, or the engine broke a guarantee."""


class Crashed(BaseException):
    """The worker dies here, as by SIGKILL. No computation can catch it, because it is not raised while one runs."""


@dataclass(slots=True)
class VirtualPartition(OwnedPartition):
    """A partition owned by the harness, with its virtual clock."""

    clock: Keyspace | None = None

    def server_now(self) -> float:
        assert self.clock is not None
        return self.clock.now


class _Silent:
    """Reports of the loop, discarded."""

    plain_tasks: frozenset[str] = frozenset()
    node = "harness"
    dispatcher = None

    def committed(self, under_way: UnderWay) -> None: ...

    def fenced(self, partition: str) -> None: ...

    def removed(self, owned: OwnedPartition) -> None: ...

    def flush_if_due(self) -> float | None:
        return None

    def close(self) -> None: ...


class _NoReplies:
    """Replies, discarded: no caller waits for results here."""

    def of(self, *_: object) -> list[MoreEffects]:
        return []


class _Stepping:
    """A worker's step rules, with the virtual clock and without randomness."""

    @staticmethod
    def call(owned: OwnedPartition, call: Call) -> object:
        return call_directly(call)

    def __init__(self, workers: StepRunner, clock: Callable[[], float]) -> None:
        self._rules_for, self._clock = workers.rules_for, clock
        self.step = workers.step

    def rules_for(self, owned: OwnedPartition) -> StepRules:
        return replace(
            self._rules_for(owned),
            clock=self._clock,
            random=lambda: 0.5,
            seconds=float("inf"),
            inline=True,
        )


class VirtualLoop(PartitionLoop):
    """One worker that owns every partition. Never started as a thread: `run_until_idle` processes what is ready.

    `twice`: two workers run each batch. The second has taken over, so the first one's commit must be refused. Each commit is also
    sent twice, as after a lost reply, and must be written once.
    """

    def __init__(self, installation: Installation, keyspace: Keyspace, *, twice: bool) -> None:
        super().__init__(installation, "harness", cast(Reports, _Silent()), _no_plain_task, ())
        self.blocking_read.destroy()
        self.client.close()
        self.keyspace, self.twice = keyspace, twice
        self.client = client_of(keyspace)
        self.store = CommitStore(
            self.client,
            self.names,
            batch_messages=self.settings.batch_messages,
            batch_bytes=self.settings.batch_bytes,
        )
        self.replies = cast(Any, _NoReplies())
        self.step_runner = cast(Any, _Stepping(self.step_runner, self._tick))
        #: The crashes still to happen, in order.
        self.crashes: list[CrashPoint] = []
        self._ticks = self._vain_tries = self._token = 0
        for partition in partitions_and_ingress(self.settings.partitions):
            self._take_over(partition)

    def run_until_idle(self) -> None:
        """Process everything that is ready at the current time of the clock."""
        batches = 0
        while True:
            try:
                owned = self._next()
                if owned is None:
                    return
                self.work(owned)
                self.settle()
                self._reach("after the reply")
            except Crashed:
                self._die()
            batches += 1
            if batches % BATCHES_PER_MILLISECOND == 0:
                self.keyspace.now += 0.001

    def next_due(self) -> float | None:
        """When the next delayed message, timer or retry is due; None if there is none."""
        dues = []
        for partition, owned in self.owned_partitions.items():
            if not owned.paused:
                score = self._first_due(partition)
                dues += [] if score is None else [score / 1000]
                dues += [] if owned.first_due is None else [owned.first_due[0]]
        return min(dues, default=None)

    def resume(self) -> None:
        """Resume all paused partitions, as an operator would."""
        for partition, owned in self.owned_partitions.items():
            self.client.hdel(self.names.meta(partition), "paused")
            owned.forget_all()

    def _next(self) -> OwnedPartition | None:
        for owned in self.owned_partitions.values():
            unread = self.client.llen(self.names.queue(owned.partition)) and not owned.messages
            score = self._first_due(owned.partition)
            if not owned.paused and (unread or (score is not None and score <= self.keyspace.milliseconds)):
                owned.unknown = True
        return self.next_partition()

    def _first_due(self, partition: str) -> float | None:
        """When the first delayed message of a partition is due, in ms; None if there is none."""
        held = self.keyspace.find(self.names.delayed(partition).encode(), SortedSet)
        return min(held.values()) if held else None

    def _take_over(self, partition: str) -> None:
        """Give the partition to a new owner with empty memory."""
        self._token += 1
        self.client.hset(self.names.meta(partition), "token", self._token)
        self.owned_partitions[partition] = VirtualPartition(Lease(partition, self._token), clock=self.keyspace)

    def _die(self) -> None:
        """Another worker takes over the dead one's leases. Messages that may have killed it run one by one."""
        self.under_way = None
        for partition in list(self.owned_partitions):
            if self.settings.max_worker_crashes:
                self.client.hset(self.names.meta(partition), "to_isolate", self.settings.batch_messages)
            self._take_over(partition)

    def _reach(self, point: CrashPoint) -> None:
        if self.crashes and self.crashes[0] == point:
            self.crashes.pop(0)
            raise Crashed(point)

    def _tick(self) -> float:
        """The step's clock, which the step reads when it begins and after each message."""
        self._ticks += 1
        if self._ticks == 2:
            self._reach("in the step")
        return self.keyspace.now

    # The loop's methods, with crashes and second workers in between.

    def work(self, owned: OwnedPartition) -> None:
        if not self.twice:
            super().work(owned)
            return
        older = self._run_beside(owned.partition)
        self._take_over(owned.partition)
        super().work(self.owned_partitions[owned.partition])
        self.settle()
        if older is not None:
            answer = self.store.send(older.commit)
            if answer.status != "fenced":
                raise HarnessError(f"engine error: a worker wrote after another one had taken over its partition: {answer.status}")

    def _run_beside(self, partition: str) -> PlannedCommit | None:
        """The commit of a worker that runs the partition's next batch, then sleeps until another one has taken over."""
        owned = VirtualPartition(self.owned_partitions[partition].lease, clock=self.keyspace)
        batch = self.take_batch(owned)
        if batch is None:
            return None
        items = super().read(owned, batch)
        items = self.load_states(owned, items)
        self._ticks = 2  # this worker must not crash
        outcome = super().step(owned, batch, items)
        limit, max_ids = self.settings.batch_messages, self.settings.deduplicate_ids
        return plan_commit(self.names, owned, batch, items, outcome, limit=limit, max_ids=max_ids)

    def read(self, owned: OwnedPartition, batch: Batch) -> list[Item]:
        self._reach("before reading")
        return super().read(owned, batch)

    def step(self, owned: OwnedPartition, batch: Batch, items: list[Item]) -> Outcome:
        self._reach("before the step")
        self._ticks = 0
        outcome = super().step(owned, batch, items)
        self._vain_tries = 0 if outcome.taken else self._vain_tries + 1
        if self._vain_tries > MAX_TRIES:
            key, (failure, *_) = next(iter(outcome.parked.items()))
            raise HarnessError(f"key {key!r} fails each time and its policy retries it forever without a wait: {failure.error}")
        self._reach("before the commit")
        return outcome

    def begin(self, commit: Commit) -> None:
        """Does nothing: `answer` sends the commit."""

    def answer(self, under_way: UnderWay) -> Reply:
        commit = under_way.planned.commit
        reply = self.store.send(commit)
        self._reach("after the commit")
        if self.twice and reply.status == "ok":
            reply = self.store.send(commit)
            if reply.status != "already":
                raise HarnessError(f"engine error: a repeated commit was not recognized as already written: {reply.status}")
        return reply

    def judge(self, owned: OwnedPartition, reply: Reply) -> bool:
        """Raise on any refusal: nothing else could have changed the partition."""
        if reply.status == "wrongtype":
            raise HarnessError(f"the Redis key {reply.culprit!r} has the wrong type: two sinks or names of different kinds use it")
        if reply.status not in ("ok", "already"):
            raise HarnessError(f"partition {owned.partition}: the commit was refused: {reply.status}")
        return super().judge(owned, reply)

    def set_apart(self, owned: OwnedPartition, batch: Batch, outcome: Outcome | None, error: Exception) -> bool:
        """A worker would create a dead letter; here the error is raised to the test."""
        return False

    def give_rest(self, owned: OwnedPartition, error: Exception) -> None:
        """A worker would log the error and retry; here it is raised to the test."""
        raise error

    def rest(self, error: Exception) -> None:
        raise error


def _no_plain_task(raw: bytes) -> PlainTaskRun:
    raise HarnessError("the harness does not run plain Celery tasks")
