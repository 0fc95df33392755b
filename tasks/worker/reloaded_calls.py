"""After a partition was reloaded from Redis: which of its calls in flight go on, and which have lost their ground."""

from __future__ import annotations

from collections.abc import Sequence
from typing import cast

import redis

from celery_partitions.model.items import Work
from celery_partitions.model.keys import key_bytes
from celery_partitions.model.outcome import Slot
from celery_partitions.store.names import Names
from celery_partitions.worker.in_flight_commit import finish
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_calls import PartitionCalls


def adopted(owned: OwnedPartition, calls: PartitionCalls, key: str, works: Sequence[Work]) -> KeyRun | None:
    """A run of the same messages on the same states that was started before the batch had to be read again."""
    run = calls.runs.get(key)
    if run is None or not run.from_queue or run.cancelled:
        return None
    same = [work.raw for work in works[: len(run.items)]] == run.raws
    same = same and all(
        type(slot := owned.cache.young.get(name, {}).get(key)) is Slot and slot.stored == stored for name, stored in run.base.items()
    )
    if not same:
        return None
    owned.cache.take(list(run.base), key)
    return run


def without_ground(client: redis.Redis, names: Names, owned: OwnedPartition, calls: PartitionCalls) -> list[str]:
    """The keys of runs whose messages or states in Redis are not those that they began with, because an operator changed them. They must be
    dropped; their messages run again, on the new states. All other runs of mailboxes go on."""
    calls.doubtful = False
    calls.open = None  # the batch is read again, and finds its runs by its messages
    runs = [run for run in calls.runs.values() if not run.from_queue]
    # A commit whose answer this worker has not read moved their messages to mailboxes.
    gone = [key for key, run in calls.runs.items() if run.from_queue and key in owned.parked]
    if not runs:
        return gone
    with client.pipeline(transaction=False) as pipe:
        for run in runs:
            pipe.lrange(cast(str, names.mailbox(owned.partition, run.place)), -len(run.items), -1)
            for name in run.base:
                pipe.hget(names.states(owned.partition, name), cast(str, key_bytes(run.key)))
        answers = iter(pipe.execute(raise_on_error=False))
    for run in runs:
        raws, stored = next(answers), {name: next(answers) for name in run.base}
        if not (isinstance(raws, list) and raws[::-1] == run.raws and stored == run.base and run.place in owned.parked):
            gone.append(run.key)
        elif run.is_over and not run.outcomes:
            finish(owned, calls, run)
        elif run.outcomes:  # the commit that held them was refused
            calls.ended_since = owned.clock()
    return gone
