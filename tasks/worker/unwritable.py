"""Finds the message whose outcome cannot be written to Redis, and makes it a dead letter with the reason `unwritable`.

The batch is run again in halves until that message is alone. If the server itself refuses (full, read-only, no permission), no
message is at fault: the partition waits, as in any outage.
"""

from __future__ import annotations

import re
from dataclasses import replace

import redis

from celery_partitions.model.errors import describe
from celery_partitions.model.outcome import Outcome
from celery_partitions.runtime.peer import NotDelivered
from celery_partitions.store.scripts import digest_of
from celery_partitions.worker.batch import Batch, Verdict
from celery_partitions.worker.owned import OwnedPartition

#: Error codes that blame the server's condition. In an error of a script they may be anywhere in the text.
_OF_THE_SERVER = re.compile(
    r"\b(OOM|MISCONF|READONLY|NOPERM|NOAUTH|NOREPLICAS|BUSY|LOADING|MASTERDOWN|CLUSTERDOWN|CROSSSLOT|MOVED|ASK|TRYAGAIN|WRONGTYPE|"
    r"NOSCRIPT|UNKILLABLE)\b|^unknown command"
)


def lies_in_the_outcome(error: Exception) -> bool:
    """Whether the same outcome would fail again on a healthy server."""
    if isinstance(error, redis.DataError):  # redis-py cannot encode it
        return True
    if isinstance(error, redis.ResponseError):
        return type(error) is redis.ResponseError and _OF_THE_SERVER.search(str(error)) is None
    return not isinstance(error, redis.RedisError | OSError | NotDelivered)


def narrowed(owned: OwnedPartition, batch: Batch) -> Batch:
    """The batch, shortened while the partition searches for such a message. Once found, the message is alone and condemned."""
    if not batch.messages:
        return batch
    if owned.unwritable is not None and digest_of(batch.messages[0]) == owned.unwritable[0]:
        return replace(batch, messages=batch.messages[:1], condemned=owned.unwritable[1])
    return batch if owned.largest_batch is None else replace(batch, messages=batch.messages[: owned.largest_batch])


def narrow(owned: OwnedPartition, batch: Batch, outcome: Outcome | None, error: Exception) -> bool:
    """Take fewer messages next time, because the outcome of the batch cannot be written. `outcome`: None if the error came before there was one.

    Returns False if that would not help.
    """
    if batch.condemned is not None or not batch.messages or not lies_in_the_outcome(error):
        return False
    owned.forget_all()
    count = len(batch.messages) if outcome is None or batch.parts else max(1, outcome.taken)
    if count > 1:
        owned.largest_batch = count // 2
    else:
        owned.unwritable = digest_of(batch.messages[0]), Verdict("unwritable", f"cannot write its outcome to Redis: {describe(error)}")
    return True


def widen(owned: OwnedPartition, batch_messages: int) -> None:
    """Take more messages again, after a commit of the partition was written."""
    owned.unwritable = None
    if owned.largest_batch is not None:
        owned.largest_batch *= 2
        if owned.largest_batch >= batch_messages:
            owned.largest_batch = None
