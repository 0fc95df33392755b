"""A batch whose outcome can't be written, for any reason: the message that causes it is found, and becomes a dead letter.

The batch is run again in halves until that message is alone. Its dead letter has the reason `unwritable`. A reason that lies in the
server (full, read-only, not allowed) is no message's: then the partition waits, as in any outage.
"""

from __future__ import annotations

import re
from dataclasses import replace

import redis

from celery_partitions.model.errors import say
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.scripts import digest_of
from celery_partitions.worker.flushing import NotDelivered
from celery_partitions.worker.lane import Batch, Lane, Verdict

#: What Redis begins an error with when its own condition is the reason; inside a script's error they stand anywhere.
_OF_THE_SERVER = re.compile(
    r"\b(OOM|MISCONF|READONLY|NOPERM|NOAUTH|NOREPLICAS|BUSY|LOADING|MASTERDOWN|CLUSTERDOWN|CROSSSLOT|MOVED|ASK|TRYAGAIN|WRONGTYPE|"
    r"NOSCRIPT|UNKILLABLE)\b|^unknown command"
)


def lies_in_the_outcome(error: Exception) -> bool:
    """Whether the same outcome would fail again on a healthy server."""
    if isinstance(error, redis.DataError):  # redis-py can't encode it
        return True
    if isinstance(error, redis.ResponseError):
        return type(error) is redis.ResponseError and _OF_THE_SERVER.search(str(error)) is None
    return not isinstance(error, redis.RedisError | OSError | NotDelivered)


def narrowed(lane: Lane, batch: Batch) -> Batch:
    """The batch, or its beginning, while the lane looks for such a message; condemned when it is the one."""
    if not batch.messages:
        return batch
    if lane.unwritable is not None and digest_of(batch.messages[0]) == lane.unwritable[0]:
        return replace(batch, messages=batch.messages[:1], condemned=lane.unwritable[1])
    return batch if lane.largest_batch is None else replace(batch, messages=batch.messages[: lane.largest_batch])


def narrow(lane: Lane, batch: Batch, outcome: Outcome | None, error: Exception) -> bool:
    """The outcome of the batch (None: there is none) can't be written: take less of it next time. False: that would not help."""
    if batch.condemned is not None or not batch.messages or not lies_in_the_outcome(error):
        return False
    lane.forget_all()
    count = len(batch.messages) if outcome is None else max(1, outcome.taken)
    if count > 1:
        lane.largest_batch = count // 2
    else:
        lane.unwritable = digest_of(batch.messages[0]), Verdict("unwritable", f"what it did can't be written: {say(error)}")
    return True


def widen(lane: Lane, batch_messages: int) -> None:
    """A commit of the lane was written."""
    lane.unwritable = None
    if lane.largest_batch is not None:
        lane.largest_batch *= 2
        if lane.largest_batch >= batch_messages:
            lane.largest_batch = None
