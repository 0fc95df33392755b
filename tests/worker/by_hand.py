"""A worker's loop without its thread, which a test runs turn by turn."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import cast

from celery_partitions.producer.task import ComputationTask
from celery_partitions.runtime.registry import add_installation, remove_installation
from celery_partitions.store.leases import balance
from celery_partitions.store.worker_code import WorkerCode
from celery_partitions.worker.call_turns import begin_calls
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.parts import WorkerParts, worker_parts
from celery_partitions.worker.plain_tasks import PlainTaskRun
from celery_partitions.worker.reports import Reports
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until


def no_task(raw: bytes) -> PlainTaskRun:
    raise AssertionError(f"a plain task: {raw!r}")


class LoopByHand(PartitionLoop):
    """Holds all partitions of a group."""

    reports: Reports
    #: A test may replace it.
    run_plain_task: Callable[[bytes], PlainTaskRun] = staticmethod(no_task)

    def take_turns(self, limit: int = 1000) -> int:
        """Work until nothing is ready. Returns the number of turns. Raises if a partition has a fault that no message caused."""
        for turn in range(limit):
            owned = self.next_partition()
            if owned is None and self.commits.pending is None:
                if self.due_turns.holds:
                    self.due_turns.go_on()
                    continue
                return turn
            if owned is not None:
                self.work(owned)
            self.commits.settle()
            faults = [owned.fault for owned in self.owned_partitions.values() if owned.fault]
            assert not faults
        raise AssertionError(f"something is still ready after {limit} turns")

    def begin_calls(self) -> None:
        """Run calls that wait in their own thread, as in a worker. `end_calls` ends it."""
        self.calls = begin_calls(self, cast(WorkerParts, self.parts), "by-hand")

    def end_calls(self) -> None:
        assert self.calls is not None
        self.calls.in_flight.calls.end()

    def live_until(self, is_so: Callable[[], object], timeout: float = 60.0) -> None:
        """Work as the thread does, with calls in flight, until something is so."""

        def turn() -> object:
            for _ in range(20):
                owned = self.next_partition()
                if owned is not None:
                    self.work(owned)
                else:
                    self.commits.settle()
                    self.listen([one for one in self.owned_partitions.values() if not one.messages and not one.paused], 0.001)
            self.commits.settle()
            faults = [owned.fault for owned in self.owned_partitions.values() if owned.fault]
            assert not faults
            return is_so()

        wait_until(turn, timeout, every=0.001)

    @property
    def owned(self) -> OwnedPartition:
        return self.owned_partitions["0"]

    def look_again(self) -> None:
        """Look at the queue again, as after the arrival of a message."""
        for owned in self.owned_partitions.values():
            owned.look_again()


@contextmanager
def loop_by_hand(live: LiveGroup, *, calls: bool = False, tasks: bool = False) -> Iterator[LoopByHand]:
    """`calls`: begin the calls that wait, and end them after the block. `tasks`: the app has the computations as tasks, as in a worker."""
    if tasks:
        add_installation(live.installation, ComputationTask)
    reports = Reports(live.app, "by-hand", 0, lambda: False, live.app.tasks)
    parts = worker_parts(
        live.installation, "by-hand/1", reports, lambda raw: loop.run_plain_task(raw), (), node="by-hand"
    )
    loop = LoopByHand(live.installation, "by-hand/1", parts)
    loop.reports = reports
    partitions = live.settings.partitions
    loop.follow(balance(loop.client, live.names, "by-hand/1", lease_seconds=60, partitions=partitions, code=WorkerCode.of(live.installation.computations.values())))
    loop.holdings.take_up_share()
    try:
        if calls:
            loop.begin_calls()
        yield loop
        if calls:
            loop.end_calls()
    finally:
        if tasks:
            remove_installation(live.installation)
        loop.waiting.destroy()
        reports.close()
        loop.client.close()
