"""The parts of a loop: what it needs from each, and the ones that a worker process gives it.

The harness and the simulator run the same loop. They pass their own server, clock, chance and waiting.
"""

from __future__ import annotations

import random as system_random
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import redis

from celery_partitions.model.effects import MoreEffects
from celery_partitions.model.items import Item, Work
from celery_partitions.model.message_writer import Cause, MakeCause
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.step import step
from celery_partitions.results.follow_ups import FollowUps
from celery_partitions.results.replies import Replies
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease, Share
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.blocking_read import BlockingRead, Found
from celery_partitions.worker.celery_context import CeleryContext
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.plain_tasks import CeleryTasks, PlainTaskRun
from celery_partitions.worker.planned_commit import PendingCommit
from celery_partitions.worker.recovery import Recovery
from celery_partitions.worker.stalls import StallDetector
from celery_partitions.worker.step_runner import LimitedCalls, StepRunner
from celery_partitions.worker.tracing import TracedSteps, TracedStore


class Clock(Protocol):
    """Time as the loop sees it. Python's module `time` is one."""

    def monotonic(self) -> float: ...

    def sleep(self, seconds: float, /) -> None: ...


class Waiting(Protocol):
    """Waits for messages (`BlockingRead`)."""

    @property
    def is_tracking(self) -> bool: ...

    def wake(self) -> None: ...

    def wait(self, partitions: list[str], seconds: float) -> Found: ...

    def is_watching(self, partition: str) -> bool: ...

    def drop(self, partition: str) -> None: ...

    def close(self) -> None: ...

    def destroy(self) -> None: ...


class Runner(Protocol):
    """Runs steps (`StepRunner`)."""

    def step(self, owned: OwnedPartition, batch: Batch, items: Sequence[Item]) -> Outcome: ...

    def follow(self, policies: Mapping[str, bytes]) -> None:
        """Take operators' changes of failure policies."""


class Stalls(Protocol):
    """How long the whole process was suspended (`StallDetector`)."""

    def reset(self) -> None:
        """Called once a batch is taken, before it is read."""

    def longest_seconds(self) -> float:
        """Since `reset`."""

    def stalled_since(self, moment: float, seconds: float) -> bool:
        """Whether it was for more than these seconds after a moment of the loop's clock."""


class Answers(Protocol):
    """What a commit stores and pushes for callers who wait for results (`Replies`)."""

    def of(self, owned: OwnedPartition, batch: Batch, outcome: Outcome) -> list[MoreEffects]: ...


class Tasks(Protocol):
    """Runs what Celery's own code runs (`CeleryTasks`)."""

    def run(self, owned: OwnedPartition, items: Sequence[Item]) -> Outcome: ...


class Observer(Protocol):
    """Learns what the loop did (`Reports`)."""

    @property
    def plain_tasks(self) -> Container[str]:
        """The names of Celery tasks that are not computations."""

    def committed(self, pending: PendingCommit) -> None: ...

    def fenced(self, partition: str) -> None: ...

    def removed(self, owned: OwnedPartition) -> None: ...

    def flush_if_due(self) -> float | None:
        """Returns the seconds until something is due; None: nothing waits."""

    def close(self) -> None: ...


class Faults(Protocol):
    """What follows an error (`Recovery`). Each method may raise instead, which ends the loop's turn."""

    @property
    def is_on(self) -> bool:
        """The loop cannot work. The lease keeper's thread reads it."""

    def of_batch(self, owned: OwnedPartition, batch: Batch | None, outcome: Outcome | None, error: Exception) -> None: ...

    def of_partition(self, owned: OwnedPartition, error: Exception) -> None: ...

    def of_key(self, owned: OwnedPartition, culprit: str) -> None: ...

    def of_server(self, error: Exception, share: Share, *, quietly: bool, wait: bool) -> None: ...

    def of_loop(self) -> None: ...

    def reached(self, share: Share) -> None: ...

    def written(self) -> None: ...


@dataclass(frozen=True, slots=True)
class LoopParts:
    """What `PartitionLoop` is made of. It closes the client, the waiting and the observer when it ends."""

    client: redis.Redis
    store: CommitStore
    clock: Clock
    waiting: Waiting
    runner: Runner
    stalls: Stalls
    faults: Faults
    answers: Answers
    tasks: Tasks
    observer: Observer
    #: The ids of revoked messages.
    revoked: Container[str]


@dataclass(frozen=True, slots=True)
class WorkerParts(LoopParts):
    """The parts of a worker process, and what its boot step starts and ends."""

    runner: StepRunner
    stalls: StallDetector
    follow_ups: FollowUps
    #: Makes spans, if tracing is on.
    traced: TracedSteps | None
    #: Called in any thread for a call that cannot be interrupted. Does not return.
    hangs: Callable[[tuple[Lease, Work], str], None]


def worker_parts(
    installation: Installation,
    worker: str,
    reports: Observer,
    run_plain_task: Callable[[bytes], PlainTaskRun],
    revoked: Container[str],
    *,
    node: str,
    client: redis.Redis | None = None,
    clock: Clock = time,
    random: Callable[[], float] = system_random.random,
    make_waiting: Callable[[redis.Redis], Waiting] | None = None,
) -> WorkerParts:
    """The parts of a worker's loop. `node`: the worker's name in Celery. By default the machine's clock, chance and sockets."""
    settings, names, tracing = installation.settings, installation.group.names, installation.tracing
    client = installation.group.connect() if client is None else client
    waiting = BlockingRead(client, names, clock.monotonic) if make_waiting is None else make_waiting(client)
    store, run = CommitStore.of(client, names, settings), step
    make_cause: MakeCause = Cause
    traced = None if tracing is None else TracedSteps(tracing)
    if traced is not None:
        store, run, make_cause = TracedStore(store, traced), traced.step, traced.make_cause
    follow_ups, stalls, context = FollowUps(installation, node, store), StallDetector(), CeleryContext(installation.app, node)
    calls = LimitedCalls(settings, names, worker, context)
    return WorkerParts(
        client=client,
        store=store,
        clock=clock,
        waiting=waiting,
        runner=StepRunner(
            settings,
            installation.group.codec.pickling(),
            installation.message_writer(worker, make_cause),
            calls,
            context,
            clock=clock.monotonic,
            random=random,
            client=client,
            names=names,
            run=run,
        ),
        faults=Recovery(clock, random),
        answers=Replies(installation, follow_ups),
        tasks=CeleryTasks(follow_ups, run_plain_task, clock.monotonic),
        observer=reports,
        revoked=revoked,
        stalls=stalls,
        follow_ups=follow_ups,
        hangs=calls.hangs,
        traced=traced,
    )
