"""Waits for messages on idle partitions, and notes in their memory what came."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

import redis

from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import State
from celery_partitions.worker.parts import Faults, Waiting

#: The longest wait of an idle loop.
MAX_IDLE_SECONDS = 60.0


def idle_partitions(owned_partitions: Iterable[OwnedPartition], now: float) -> tuple[list[OwnedPartition], float]:
    """The partitions to watch for messages, and for how many seconds at most. Call it when none is ready. `now`: by the loop's clock."""
    idle, until = [], [MAX_IDLE_SECONDS]
    for owned in owned_partitions:
        if owned.rest_until > now:
            until.append(owned.rest_until - now)
            continue
        if owned.next_attention < math.inf:
            until.append(max(0.0, owned.next_attention - now))
        if owned.state is State.KNOWN and (not owned.paused or owned.calls is not None):
            if not owned.paused and not owned.messages and owned.cohort is None:  # else its messages are known, or wait for older ones
                idle.append(owned)
            seconds = owned.seconds_to_next_due()
            if seconds is not None and not owned.paused:
                until.append(seconds)
            if owned.calls is not None:
                until.append(owned.calls.seconds_to_turn(owned))
    return idle, min(until)


def listen(owned_partitions: Mapping[str, OwnedPartition], idle: list[OwnedPartition], seconds: float, waiting: Waiting, faults: Faults) -> None:
    """Wait at most `seconds` for messages on the idle ones of the owned partitions."""
    for owned in idle:
        if not waiting.is_watching(owned.partition):
            owned.watched_at = owned.commit_number
    for partition, head in waiting.wait([owned.partition for owned in idle], seconds).items():
        owned = owned_partitions[partition]
        if isinstance(head, redis.ResponseError):
            faults.of_partition(owned, head)
        elif owned.messages or owned.state is State.COMMITTING:
            pass  # its next messages are known, or arrive with the commit's answer
        elif head is not None and not owned.lease.inbox and owned.watched_at == owned.commit_number and owned.state is State.KNOWN:
            owned.messages = [head]
        else:
            owned.look_again()
            owned.had_message = head is None and not owned.lease.inbox and waiting.is_tracking and owned.watched_at == owned.commit_number
