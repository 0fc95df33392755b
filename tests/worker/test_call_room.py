"""How many calls are handed to the call thread at once, and when a batch of them is committed although some have not ended."""

from __future__ import annotations

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.model.in_flight import BATCH_SECONDS, LONGEST_SECONDS
from celery_partitions.model.items import Apart
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.leases import Lease
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.call_room import MAX_AHEAD, CallRoom
from celery_partitions.worker.call_times import CallTimes
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_calls import OpenBatch, PartitionCalls, Suspects
from celery_partitions_config.settings import Settings

CONCURRENCY = 10


async def waits(message: int) -> None: ...


class Group:
    """A worker's partition with a batch of calls that it handed over at 0."""

    def __init__(self) -> None:
        self.now = 0.0
        self.stage: Computation = declare(waits, name="waits", state=None, key=str, concurrency=CONCURRENCY)
        self.room = CallRoom(Settings())
        self.times = CallTimes(self.room, lambda _: None, lambda: self.now)
        self.owned = OwnedPartition(Lease("0", 1), lambda: self.now)
        self.calls = PartitionCalls(lambda _: True, self.times.seconds_to_turn, self.times.can_take, Suspects())

    def opened(self, count: int) -> OpenBatch:
        runs = {str(key): KeyRun(self.owned, str(key), [], {}, {}, self.stage) for key in range(count)}
        self.room.add(runs.values())
        items = [Apart(b"a message")] * count
        last = runs[str(count - 1)]
        return OpenBatch(Batch([]), items, Outcome(), runs, {}, {}, is_urgent=False, left=count, began=self.now, handed_over=count, last=last)

    def size_after(self, *batches: float) -> int:
        """How many calls are handed over at once after batches of as many, whose calls take this long one after another."""
        for seconds in batches:
            opened = self.opened(self.room.size(self.stage))
            for run in opened.runs.values():
                self.room.release(run)
            opened.left = 0
            self.room.note_closed(opened, opened.began + seconds * len(opened.runs))
        return self.room.size(self.stage)


def test_a_batch_whose_calls_wait_for_those_of_other_partitions_is_not_committed() -> None:
    """Otherwise all of its messages would move to mailboxes, and be read again one by one."""
    group = Group()
    opened = group.opened(CONCURRENCY)
    group.calls.open = opened
    for begins in (False, True):
        opened.runs["0"].has_task = True
        opened.runs[str(CONCURRENCY - 1)].has_task = begins
        waits = group.times.seconds_to_close(group.calls, opened, 2 * BATCH_SECONDS)
        assert (waits == 0.0) == begins
    opened.runs[str(CONCURRENCY - 1)].has_task = False
    assert group.times.seconds_to_close(group.calls, opened, LONGEST_SECONDS) == 0.0  # messages behind it wait no longer


def test_short_calls_are_handed_over_several_at_a_time_for_each_that_may_run() -> None:
    assert Group().size_after(0.0001) == 2 * CONCURRENCY
    assert Group().size_after(*[0.0001] * 10) == MAX_AHEAD * CONCURRENCY


def test_many_short_calls_stay_many_on_a_machine_that_is_a_little_slower() -> None:
    group = Group()
    assert group.size_after(*[0.001] * 10) == MAX_AHEAD * CONCURRENCY
    assert group.size_after(LONGEST_SECONDS / 2 / MAX_AHEAD / CONCURRENCY * 1.1) == MAX_AHEAD // 2 * CONCURRENCY


def test_slow_calls_are_handed_over_one_for_each_that_may_run() -> None:
    group = Group()
    assert group.size_after(*[0.0001] * 10) > CONCURRENCY
    opened = group.opened(CONCURRENCY)
    group.room.note_closed(opened, BATCH_SECONDS)  # its calls still run
    assert group.room.size(group.stage) == CONCURRENCY
