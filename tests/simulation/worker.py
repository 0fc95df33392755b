"""A worker of the simulation: the real loop and the real lease keeper, each in a thread of the simulated world."""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from functools import partial

from celery_partitions.model.outcome import Slot
from celery_partitions.runtime.installation import Installation
from celery_partitions.worker.blocking_read import BlockingRead
from celery_partitions.worker.call_turns import begin_calls
from celery_partitions.worker.lease_keeper import LeaseKeeper
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.parts import worker_parts
from celery_partitions.worker.plain_tasks import PlainTaskRun
from celery_partitions.worker.planned_commit import PendingCommit
from tests.simulation.application import PLAIN_TASK
from tests.simulation.calls import Calls
from tests.simulation.clock import Clock, Event
from tests.simulation.network import Selector, connect, socketpair
from tests.simulation.world import Process, Thread, World


class Reports:
    """Ignores the loop's reports. What Celery's monitors get is tested elsewhere."""

    plain_tasks: Container[str] = frozenset({PLAIN_TASK})

    def committed(self, pending: PendingCommit) -> None: ...

    def flush_if_due(self) -> float | None:
        return None

    def close(self) -> None: ...

    def fenced(self, partition: str) -> None: ...

    def removed(self, owned: OwnedPartition) -> None: ...


class Worker:
    """One worker process. `ran_plain_task` collects the plain Celery tasks that were run."""

    def __init__(self, world: World, install: Callable[[], Installation], name: str, ran_plain_task: list[bytes]) -> None:
        self.world, self.name = world, name
        self.process = Process(name, clock_offset=world.random.uniform(-1e6, 1e6))
        self._install, self._ran_plain_task = install, ran_plain_task
        #: It was stopped.
        self.leaving = False
        self.loop: PartitionLoop | None = None
        self._loop_thread: Thread | None = None
        world.spawn(self.process, "start", self._start)

    def _start(self) -> None:
        """Start the worker as the boot step does."""
        installation = self._install()
        settings, names = installation.settings, installation.group.names
        installation.group.client = connect(settings)
        world, clock = self.world, Clock(self.world, self.process.clock_offset)
        parts = worker_parts(
            installation,
            self.name,
            Reports(),
            self._run_plain_task,
            frozenset(),
            node=self.name,
            client=connect(settings),
            clock=clock,
            random=world.random.random,
            make_waiting=lambda client: BlockingRead(client, names, clock.monotonic, Selector(), socketpair()),
        )
        self.loop = loop = PartitionLoop(installation, self.name, parts)
        self.keeper = LeaseKeeper(
            settings,
            names,
            installation.group.topology,
            self.name,
            (),
            loop.follow,
            loop_fails=lambda: parts.faults.is_on,
            client=connect(settings),
            clock=clock.monotonic,
            random=world.random.random,
            make_event=lambda: Event(world),
        )
        loop.wake_keeper = self.keeper.wake
        loop.calls = begin_calls(loop, parts, self.name, partial(Calls, self.process))
        self._loop_thread = self.world.spawn(self.process, "loop", loop.run)
        self.world.spawn(self.process, "keeper", self.keeper.run)

    def _run_plain_task(self, raw: bytes) -> PlainTaskRun:
        self._ran_plain_task.append(raw)
        return PlainTaskRun([])

    @property
    def running(self) -> bool:
        return self.loop is not None and not self.process.dead

    def leave(self, *, cold: bool) -> None:
        """Stop the worker as the boot step does, with a warm or a cold shutdown."""
        self.leaving = True
        self.world.spawn(self.process, "leave", lambda: self._leave(cold))

    def _leave(self, cold: bool) -> None:
        assert self.loop is not None
        if cold:
            self.loop.drop()
        else:
            self.loop.finish()
            self.world.wait(lambda: self._loop_thread is not None and self._loop_thread.ended)
        self.keeper.leave()
        # The process ends, and with it a loop that was stopped without committing.
        self.world.wait(None, self.world.now + self.world.random.choice((0.0, 0.3)))
        self.process.dead = True

    def cached(self, owned: OwnedPartition) -> Iterator[tuple[str, str, Slot]]:
        """The states of an owned partition in memory: computation, key, state."""
        for tables in (owned.cache.young, owned.cache._old):
            for name, table in tables.items():
                for key, slot in table.items():
                    if isinstance(slot, Slot):
                        yield name, key, slot

    @property
    def gone(self) -> bool:
        return self.process.dead
