"""When calls in flight need a turn of the partition loop, and when their outcomes are committed."""

from __future__ import annotations

from collections.abc import Callable

from celery_partitions.model.in_flight import (
    BATCH_SECONDS,
    LINGER_SECONDS,
    LONGEST_SECONDS,
    PATIENCE_SECONDS,
    is_batch_due,
)
from celery_partitions.worker.call_room import CallRoom
from celery_partitions.worker.listening import MAX_IDLE_SECONDS
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_calls import OpenBatch, PartitionCalls

#: A full computation is given messages again when half of its calls have ended, or after this time when any has.
REFILL_SECONDS = 0.02
#: How often the loop looks whether the calls of a partition that it gives up have ended.
LEAVING_SECONDS = 0.05


class CallTimes:
    """Made once per loop. `collect`: takes outcomes from the call thread. `clock`: monotonic."""

    def __init__(self, room: CallRoom, collect: Callable[[OwnedPartition], None], clock: Callable[[], float]) -> None:
        self.room, self.collect, self.clock = room, collect, clock

    def seconds_to_commit(self, owned: OwnedPartition) -> float | None:
        """Seconds until the partition's next commit, unless a call ends before. None if nothing waits for one; 0: now."""
        calls = owned.calls
        if calls is None or calls.doubtful:
            return None
        self.collect(owned)
        now, waits = self.clock(), []
        if calls.noted:
            # Not `ended.running`: the call thread may not have started them yet.
            return None if any(not run.is_over for run in calls.runs.values()) else 0.0
        if calls.ended_since is not None:
            waits.append(0.0 if calls.ended.running <= 0 else max(0.0, calls.ended_since + LINGER_SECONDS - now))
        if calls.open is not None:
            waits.append(self.seconds_to_close(calls, calls.open, now))
        return min(waits, default=None)

    def seconds_to_close(self, calls: PartitionCalls, opened: OpenBatch, now: float) -> float:
        """Seconds until the open batch is committed, unless a call ends before."""
        if opened.left <= 0:
            return 0.0
        if opened.is_isolating:
            return float("inf")
        if opened.is_urgent:
            return 0.0
        stage = next(iter(opened.runs.values())).stage
        room_wanted = len(opened.items) > 1 and self.room.counts[stage.name] * 2 < self.room.limit(stage) and calls.full is stage
        age, since_last = now - opened.began, now - max(opened.began, calls.ended.last)
        if opened.last is not None and not opened.last.has_task and age < LONGEST_SECONDS:  # its calls wait for those of other partitions
            return min(LONGEST_SECONDS - age, PATIENCE_SECONDS)
        if is_batch_due(running=opened.left, age=age, since_last=since_last, room_wanted=room_wanted):
            return 0.0
        return max(0.0005, min(LONGEST_SECONDS - age, max(BATCH_SECONDS - age, PATIENCE_SECONDS - since_last)))

    def seconds_to_turn(self, owned: OwnedPartition) -> float:
        """Seconds until the partition's calls need a turn of the loop, unless one ends before."""
        calls = owned.calls
        assert calls is not None
        if calls.doubtful:
            return 0.0
        seconds = self.seconds_to_commit(owned)
        waits = [MAX_IDLE_SECONDS if seconds is None else seconds]
        if calls.leaving_since is not None:
            waits.append(LEAVING_SECONDS)
        if calls.dues and not owned.paused and calls.may_start and not calls.is_isolating:
            waits.append(max(0.0, calls.dues[0][0] - owned.server_now(), calls.no_room_until - self.clock()))
        if calls.full is not None and calls.open is None and owned.messages and not owned.paused and self.room.free(calls.full) > 0:
            # Not 0: when there is room, `can_take` says so. Without any, a call must end first, and that wakes the loop.
            waits.append(max(0.001, calls.full_since + REFILL_SECONDS - self.clock()))
        return min(waits)

    def can_take(self, calls: PartitionCalls) -> bool:
        """Whether the loop may take the next batch of the queue: none is open, and there is room for calls."""
        if calls.open is not None or not calls.may_start or calls.suspects.wanted_by is calls:
            return False
        if calls.full is None:
            return True
        if not self.room.has_bytes() and self.room.counts.total():
            return False
        free = self.room.free(calls.full)
        return free * 2 >= self.room.size(calls.full) or (free > 0 and self.clock() - calls.full_since >= REFILL_SECONDS)
