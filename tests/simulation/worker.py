"""A worker of the simulation: the real loop and the real lease keeper, each in a thread of the world."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_partitions.model.outcome import Slot
from celery_partitions.runtime.installation import Installation
from celery_partitions.worker.lease_keeper import LeaseKeeper
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.plain_tasks import PlainTaskRun
from celery_partitions.worker.planned_commit import UnderWay
from tests.simulation.application import PLAIN_TASK
from tests.simulation.world import Process, World


class Reports:
    """Where the loop reports to: nobody watches. What Celery's monitors get of it is tested elsewhere."""

    plain_tasks = frozenset({PLAIN_TASK})

    def committed(self, under_way: UnderWay) -> None: ...

    def flush_if_due(self) -> float | None:
        return None

    def close(self) -> None: ...

    node = "simulated"

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


class Worker:
    """One worker process. `ran_plain_task` collects the plain Celery tasks that were run."""

    def __init__(self, world: World, installation: Installation, name: str, ran_plain_task: list[bytes]) -> None:
        self.world, self.name = world, name
        self.process = Process(name, clock_offset=world.random.uniform(-1e6, 1e6))
        self._installation, self._ran_plain_task = installation, ran_plain_task
        #: It was told to end.
        self.leaving = False
        self.loop: PartitionLoop | None = None
        world.spawn(self.process, "start", self._start)

    def _start(self) -> None:
        """What the boot step does."""
        installation = self._installation
        settings, names = installation.settings, installation.group.names
        self.loop = PartitionLoop(installation, self.name, Reports(), self._run_plain_task, frozenset())  # type: ignore[arg-type]
        self.keeper = LeaseKeeper(settings, names, self.name, (), self.loop.follow, loop_fails=lambda: self.loop.outage.is_on)
        self.loop.wake_keeper = self.keeper.wake
        self._loop_thread = self.world.spawn(self.process, "loop", self.loop.run)
        self._keeper_thread = self.world.spawn(self.process, "keeper", self.keeper.run)
        self.keeper.join = self._join_keeper  # type: ignore[method-assign]

    def _join_keeper(self, timeout: float | None = None) -> None:
        until = None if timeout is None else self.world.now + timeout
        self.world.wait(lambda: self._keeper_thread.ended, until)

    def _run_plain_task(self, raw: bytes) -> PlainTaskRun:
        self._ran_plain_task.append(raw)
        return PlainTaskRun([])

    @property
    def running(self) -> bool:
        return self.loop is not None and not self.process.dead

    def leave(self, *, cold: bool) -> None:
        """As the boot step ends a worker: warm, or cold."""
        self.leaving = True
        self.world.spawn(self.process, "leave", lambda: self._leave(cold))

    def _leave(self, cold: bool) -> None:
        assert self.loop is not None
        if cold:
            self.loop.drop()
        else:
            self.loop.finish()
            self.world.wait(lambda: self._loop_thread.ended)
        self.keeper.leave()
        # The process ends: a loop that was told to drop what it had dies with it.
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
