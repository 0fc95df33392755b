"""The workers of a harness: the engine's own loop, with Redis in memory and a virtual clock.

Each worker is a loop of a worker process. It gets parts that never wait and that raise errors to the test. They also have the points at
which the worker may die.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, NoReturn, get_args

from celery_partitions.model.caller import Call
from celery_partitions.model.effects import MoreEffects
from celery_partitions.model.items import Item
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.commits import Commit, CommitStore, Reply, SentCommit
from celery_partitions.store.leases import Share
from celery_partitions.store.names import partitions_and_ingress
from celery_partitions.testing.keyspace import Keyspace, SortedSet
from celery_partitions.testing.memory import client_of
from celery_partitions.testing.virtual_time import call_on_virtual_time
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.blocking_read import Found
from celery_partitions.worker.celery_context import CeleryContext
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.parts import LoopParts
from celery_partitions.worker.planned_commit import PendingCommit
from celery_partitions.worker.step_runner import StepRunner

#: The points of a batch at which a worker may die, in order. `Harness.crash` explains each.
CrashPoint = Literal[
    "before reading", "before the step", "in the step", "before the commit", "after the commit", "after the reply"
]
CRASH_POINTS: tuple[CrashPoint, ...] = get_args(CrashPoint)

#: After this many failed attempts of a parked key without a wait between them, the retries count as endless.
MAX_TRIES = 1000
#: The clock advances by a millisecond after this many batches, so that a timer due a fraction later fires in the end.
BATCHES_PER_MILLISECOND = 1000


class HarnessError(Exception):
    """The harness was used wrongly, or the engine broke a guarantee."""


class Crashed(BaseException):
    """The worker dies here, as by SIGKILL. No computation can catch it, because it is not raised while one runs."""


@dataclass(slots=True)
class Crashes:
    """The crashes still to happen, in order."""

    points: list[CrashPoint] = field(default_factory=list)
    #: The awaits at which workers die, by their number in a coroutine, from 1 on.
    awaits: list[int] = field(default_factory=list)

    def reach(self, point: CrashPoint) -> None:
        """A worker has come to a point. Raises `Crashed` if it dies there."""
        if self.points and self.points[0] == point:
            self.points.pop(0)
            raise Crashed(point)

    def reach_await(self, number: int) -> None:
        """A coroutine waits. Raises `Crashed` if the worker dies there."""
        if self.awaits and self.awaits[0] == number:
            self.awaits.pop(0)
            raise Crashed(f"await {number}")


class VirtualClock:
    """The clock of the data in memory. It advances only when the harness says so."""

    def __init__(self, keyspace: Keyspace) -> None:
        self.keyspace = keyspace

    def monotonic(self) -> float:
        return self.keyspace.now

    def sleep(self, seconds: float, /) -> NoReturn:
        raise HarnessError(f"engine error: a worker slept for {seconds} s")


class Store(CommitStore):
    """Commits of a worker that may die after one. `repeats`: it sends each commit twice, as after a lost reply."""

    def __init__(self, installation: Installation, keyspace: Keyspace, crashes: Crashes, *, repeats: bool) -> None:
        settings, names = installation.settings, installation.group.names
        super().__init__(
            client_of(keyspace), names, batch_messages=settings.batch_messages, batch_bytes=settings.batch_bytes
        )
        self.keyspace, self.crashes, self.repeats = keyspace, crashes, repeats

    def send(self, commit: Commit) -> Reply:
        """Raises on a refusal that only another writer could cause: there is none."""
        reply = super().send(commit)
        if reply.status not in ("ok", "already", "wrongtype"):
            raise HarnessError(f"partition {commit.lease.partition}: the commit was refused: {reply.status}")
        return replace(reply, now=self.keyspace.now)  # the server's time is in whole milliseconds

    def begin(self, commit: Commit) -> SentCommit:
        return SentCommit(commit, None, self.client)

    def finish(self, sent: SentCommit) -> Reply:
        reply = self.send(sent.commit)
        self.crashes.reach("after the commit")
        if self.repeats and reply.status == "ok":
            reply = self.send(sent.commit)
            if reply.status != "already":
                raise HarnessError(f"engine error: a repeated commit was not recognized as already written: {reply.status}")
        return reply


class LateStore(Store):
    """Commits of a worker that sleeps until another one has taken over its partition."""

    def finish(self, sent: SentCommit) -> Reply:
        reply = CommitStore.send(self, sent.commit)
        if reply.status != "fenced":
            raise HarnessError(f"engine error: a worker wrote after another one had taken over its partition: {reply.status}")
        return reply


class Steps:
    """Steps without time limits, with a virtual clock and without chance. The worker may die before, in and after one.

    `limited`: rate limits apply. Not to a worker whose calls are another's too, and do not count."""

    def __init__(
        self, installation: Installation, keyspace: Keyspace, crashes: Crashes, resources: Mapping[str, Any], *, limited: bool
    ) -> None:
        self.keyspace, self.crashes = keyspace, crashes
        self._ticks = self._vain_tries = 0
        self._calls = DirectCalls(crashes)
        self._runner = StepRunner(
            installation.settings,
            installation.group.codec.pickling(),
            installation.message_writer("harness"),
            self._calls,
            CeleryContext(installation.app, "harness"),
            clock=self._tick,
            random=lambda: 0.5,
            client=client_of(keyspace),
            names=installation.group.names,
        )
        self._runner.resources = resources
        if not limited:
            self._runner.tokens.limit_of = lambda computation: None

    def step(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item]) -> Outcome:
        self.crashes.reach("before the step")
        self._ticks = 0
        outcome = self._runner.step(owned, batch, items)
        if self._calls.died is not None:
            raise self._calls.died
        self._vain_tries = self._vain_tries + 1 if outcome.parked and not outcome.taken else 0
        if self._vain_tries > MAX_TRIES:
            key, (failure, *_) = next(iter(outcome.parked.items()))
            raise HarnessError(f"key {key!r} fails each time and its policy retries it forever without a wait: {failure.error}")
        self.crashes.reach("before the commit")
        return outcome

    def follow(self, policies: Mapping[str, bytes]) -> None:
        self._runner.follow(policies)

    def _tick(self) -> float:
        """The step's clock, which the step reads when it begins and after each message."""
        self._ticks += 1
        if self._ticks == 2:
            self.crashes.reach("in the step")
        return self.keyspace.now


class Stalls:
    """No worker is suspended. It may die before it reads a batch."""

    def __init__(self, crashes: Crashes) -> None:
        self.crashes = crashes

    def reset(self) -> None:
        self.crashes.reach("before reading")

    def longest_seconds(self) -> float:
        return 0.0

    def stalled_since(self, moment: float, seconds: float) -> bool:
        return False


class DirectCalls:
    """Calls without time limits and without Celery's signals. The worker may die while a coroutine waits."""

    def __init__(self, crashes: Crashes) -> None:
        self.crashes = crashes
        #: Kept, because the step takes any exception of a call for the message's failure.
        self.died: Crashed | None = None

    def are_needed(self) -> bool:
        return False

    def call(self, owned: OwnedPartition, call: Call) -> object:
        if self.died is not None:
            raise self.died
        try:
            return call_on_virtual_time(call, self.crashes.reach_await)
        except Crashed as crash:
            self.died = crash
            raise


class Raising:
    """Errors that a worker would log, and then retry or make a dead letter of: here they are raised to the test."""

    is_on = False

    def of_batch(self, owned: OwnedPartition, batch: Batch | None, outcome: Outcome | None, error: Exception) -> NoReturn:
        self.of_partition(owned, error)

    def of_partition(self, owned: OwnedPartition, error: Exception) -> NoReturn:
        owned.forget_all()
        raise error

    def of_key(self, owned: OwnedPartition, culprit: str) -> NoReturn:
        raise HarnessError(f"the Redis key {culprit!r} has the wrong type: two sinks or names of different kinds use it")

    def of_server(self, error: Exception, share: Share, *, quietly: bool, wait: bool) -> NoReturn:
        raise error

    def of_loop(self) -> NoReturn:
        raise

    def reached(self, share: Share) -> None: ...

    def written(self) -> None: ...


class InertParts:
    """Parts of a loop that do nothing. In memory there is nothing to wait for, report or answer."""

    plain_tasks: frozenset[str] = frozenset()
    is_tracking = False

    def wake(self) -> None: ...

    def wait(self, partitions: list[str], seconds: float) -> Found:
        raise HarnessError("engine error: a worker waited for messages")

    def is_watching(self, partition: str) -> bool:
        return False

    def drop(self, partition: str) -> None: ...

    def destroy(self) -> None: ...

    def committed(self, pending: PendingCommit) -> None: ...

    def fenced(self, partition: str) -> None: ...

    def removed(self, owned: OwnedPartition) -> None: ...

    def flush_if_due(self) -> float | None:
        return None

    def close(self) -> None: ...

    def of(self, owned: OwnedPartition, batch: Batch, outcome: Outcome) -> list[MoreEffects]:
        return []

    def run(self, owned: OwnedPartition, items: Sequence[Item]) -> Outcome:
        raise HarnessError("the harness does not run plain Celery tasks")


class VirtualWorkers:
    """A worker that owns every partition, and the ones that take over from it. `run_until_idle` processes what is ready.

    `twice`: two workers run each batch. The second has taken over, so the first one's commit must be refused. Each commit is also
    sent twice, and must be written once.
    """

    def __init__(self, installation: Installation, keyspace: Keyspace, *, twice: bool, resources: Mapping[str, Any]) -> None:
        self.installation, self.keyspace, self.twice, self.resources = installation, keyspace, twice, resources
        self.settings, self.names = installation.settings, installation.group.names
        self.client = client_of(keyspace)
        self.crashes = Crashes()
        self._token = 0
        self._late = self._start(LateStore(installation, keyspace, Crashes(), repeats=False), Crashes())
        self._begin()

    def run_until_idle(self) -> None:
        """Process everything that is ready at the current time of the clock."""
        batches = 0
        while True:
            try:
                owned = self._next()
                if owned is None:
                    return
                self._work(owned.partition)
                self.crashes.reach("after the reply")
            except Crashed:
                self._die()
            batches += 1
            if batches % BATCHES_PER_MILLISECOND == 0:
                self.keyspace.now += 0.001

    def next_due(self) -> float | None:
        """When the next delayed message, timer or retry is due; None if there is none."""
        dues = []
        for partition, owned in self._worker.owned_partitions.items():
            if not owned.paused:
                score = self._first_due(partition)
                dues += [] if score is None else [score / 1000]
                dues += [] if owned.first_due is None else [owned.first_due[0]]
                dues += [owned.unread_due] if owned.unread_due < math.inf else []
        return min(dues, default=None)

    def resume(self) -> None:
        """Resume all paused partitions, as an operator would."""
        for partition, owned in self._worker.owned_partitions.items():
            self.client.hdel(self.names.meta(partition), "paused")
            owned.forget_all()

    def _next(self) -> OwnedPartition | None:
        for owned in self._worker.owned_partitions.values():
            unread = self.client.llen(self.names.queue(owned.partition)) and not owned.messages
            score = self._first_due(owned.partition)
            if not owned.paused and (unread or (score is not None and score <= self.keyspace.milliseconds)):
                owned.look_again()
        return self._worker.next_partition()

    def _work(self, partition: str) -> None:
        """Process one batch of a partition."""
        if self.twice:
            self._take_over(self._late, partition)
            self._late.work(self._late.owned_partitions[partition])
            self._take_over(self._worker, partition)
        self._worker.work(self._worker.owned_partitions[partition])
        self._worker.commits.settle()
        self._late.commits.settle()

    def _first_due(self, partition: str) -> float | None:
        """When the first delayed message of a partition is due, in ms; None if there is none."""
        held = self.keyspace.find(self.names.delayed(partition).encode(), SortedSet)
        return min(held.values()) if held else None

    def _start(self, store: Store, crashes: Crashes) -> PartitionLoop:
        """A worker that owns nothing yet."""
        inert = InertParts()
        parts = LoopParts(
            client=self.client,
            store=store,
            clock=VirtualClock(self.keyspace),
            waiting=inert,
            runner=Steps(self.installation, self.keyspace, crashes, self.resources, limited=not isinstance(store, LateStore)),
            stalls=Stalls(crashes),
            faults=Raising(),
            answers=inert,
            tasks=inert,
            observer=inert,
            revoked=(),
        )
        return PartitionLoop(self.installation, "harness", parts)

    def _begin(self) -> None:
        """Start a worker that owns every partition."""
        store = Store(self.installation, self.keyspace, self.crashes, repeats=self.twice)
        self._worker = self._start(store, self.crashes)
        self._take_over(self._worker, *partitions_and_ingress(self.installation.group.topology.served))

    def _take_over(self, worker: PartitionLoop, *partitions: str) -> None:
        """Give the partitions to a worker, which starts with empty memory."""
        held = {partition: owned.lease.token for partition, owned in worker.owned_partitions.items()}
        for partition in partitions:
            self._token += 1
            self.client.hset(self.names.meta(partition), "token", self._token)
            held[partition] = self._token
        worker.follow(Share(held, (), None))
        worker.holdings.take_up_share()

    def _die(self) -> None:
        """Another worker takes over the dead one's leases. Messages that may have killed it run one by one."""
        if self.settings.max_worker_crashes:
            for partition in partitions_and_ingress(self.installation.group.topology.served):
                self.client.hset(self.names.meta(partition), "to_isolate", self.settings.batch_messages)
        self._begin()
