"""Turns of a loop during a resize, on a machine where each look at the clock is late."""

from __future__ import annotations

import math
from collections.abc import Callable

from celery_partitions.store.leases import balance
from celery_partitions.store.resize import begin_resize, note_epoch
from celery_partitions.store.worker_code import WorkerCode
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.parts import worker_parts
from celery_partitions.worker.reports import Reports
from tests.fundamentals.application import record
from tests.fundamentals.live import LiveGroup
from tests.support.applications.sequences import Step
from tests.worker.by_hand import no_task

#: How long everything between two looks at the clock takes.
STEP_SECONDS = 0.005


class SlowClock:
    now = 1000.0

    def monotonic(self) -> float:
        self.now += STEP_SECONDS
        return self.now

    def sleep(self, seconds: float, /) -> None:
        self.now += seconds


def test_partitions_that_wait_leave_a_turn_to_those_that_they_wait_for(make_live: Callable[..., LiveGroup]) -> None:
    live, clock, worker = make_live(PARTITIONS=4), SlowClock(), "by-hand/1"
    reports = Reports(live.app, "by-hand", 0, lambda: False, live.app.tasks)
    loop = PartitionLoop(live.installation, worker, worker_parts(live.installation, worker, reports, no_task, (), clock=clock, node="by-hand"))

    def take_up_share() -> None:
        code = WorkerCode.of(live.installation.computations.values())
        loop.follow(balance(loop.client, live.names, worker, lease_seconds=60, partitions=4, code=code))
        loop.holdings.take_up_share()

    keys = [f"key-{number}" for number in range(40)]
    try:
        note_epoch(live.client, live.names, worker, 0)
        take_up_share()
        topology = live.group.topology
        assert begin_resize(live.client, live.names, topology, 32, [100, "me", "resize", "{}"])[0] == "ok"
        for owned in loop.owned_partitions.values():
            owned.used_seconds += 20.0  # by a long call
        take_up_share()
        live.installation.group.follow(loop.resizing.topology, math.inf)
        live.send(record, [Step(key, 1) for key in keys])
        turns = 0
        while turns % 200 or len(live.numbers(record)) < 40:
            turns += 1
            assert turns < 3000, f"still not moved: {[one.partition for one in loop.owned_partitions.values() if one.topology is not loop.resizing.topology]}"
            owned = loop.next_partition()
            if owned is None:
                clock.sleep(0.001)
            else:
                loop.work(owned)
            loop.commits.settle()
            if turns % 50 == 0:
                take_up_share()
    finally:
        loop.waiting.destroy()
        reports.close()
        loop.client.close()
