"""A batch whose outcome can't be written, for any reason: the message that causes it is found, and becomes a dead letter.

The batch is run again in halves until that message is alone. Its dead letter has the reason `unwritable`. A reason that lies in the
server (full, read-only, not allowed) is no message's: then the partition waits, as in any outage.
"""

from __future__ import annotations

import re
from dataclasses import replace

import redis

from celery_partitions.model.errors import describe
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.scripts import digest_of
from celery_partitions.worker.owned import Batch, OwnedPartition, Verdict
from celery_partitions.worker.sink_delivery import NotDelivered

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


def narrowed(owned: OwnedPartition, batch: Batch) -> Batch:
    """The batch, or its beginning, while the owned partition looks for such a message; condemned when it is the one."""
    if not batch.messages:
        return batch
    if owned.unwritable is not None and digest_of(batch.messages[0]) == owned.unwritable[0]:
        return replace(batch, messages=batch.messages[:1], condemned=owned.unwritable[1])
    return batch if owned.largest_batch is None else replace(batch, messages=batch.messages[: owned.largest_batch])


def narrow(owned: OwnedPartition, batch: Batch, outcome: Outcome | None, error: Exception) -> bool:
    """The outcome of the batch (None: there is none) can't be written: take less of it next time. False: that would not help."""
    if batch.condemned is not None or not batch.messages or not lies_in_the_outcome(error):
        return False
    owned.forget_all()
    count = len(batch.messages) if outcome is None else max(1, outcome.taken)
    if count > 1:
        owned.largest_batch = count // 2
    else:
        owned.unwritable = digest_of(batch.messages[0]), Verdict("unwritable", f"what it did can't be written: {describe(error)}")
    return True


def widen(owned: OwnedPartition, batch_messages: int) -> None:
    """A commit of the owned partition was written."""
    owned.unwritable = None
    if owned.largest_batch is not None:
        owned.largest_batch *= 2
        if owned.largest_batch >= batch_messages:
            owned.largest_batch = None
