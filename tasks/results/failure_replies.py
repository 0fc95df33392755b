"""The messages of an outcome that did not succeed, with Celery's states and exceptions."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, cast

from celery import states
from celery.exceptions import NotRegistered, WorkerLostError

from celery_partitions.model.errors import MessageError, StateError, describe
from celery_partitions.model.items import DeadLetterItem, ReplyRequest
from celery_partitions.model.outcome import Failure, Outcome
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.owned import OwnedPartition


class Failed(NamedTuple):
    """A message that failed, will be retried, was revoked or has expired."""

    raw: bytes
    error: BaseException
    traceback: str | None
    #: One of Celery's states.
    state: str


def endings(owned: OwnedPartition, batch: Batch, outcome: Outcome) -> Iterator[Failed]:
    """The messages to report. A failure is reported once: when the message becomes a dead letter, or when its retries are used up."""
    told_before = _told_before(owned, batch)
    return (one for one in _all(outcome) if one.raw is not told_before or one.state == states.RETRY)


def _told_before(owned: OwnedPartition, batch: Batch) -> bytes | None:
    """The batch's first message, if its used-up retries were already reported."""
    key = batch.mailbox_of
    known = None if key is None else owned.parked.get(key)
    return batch.messages[0] if known is not None and known.dead_letter is not None and batch.messages else None


def _all(outcome: Outcome) -> Iterator[Failed]:
    failures: dict[int, Failure] = {id(one.item.raw): one for one in outcome.failures}
    for dead_letter_item, _ in outcome.dead:
        if dead_letter_item.message_id is None:
            continue  # too long to decode, or not a Celery message
        failure = failures.get(id(dead_letter_item.raw))
        error = None if failure is None else failure.exception
        yield Failed(dead_letter_item.raw, _exception_of(dead_letter_item, error), dead_letter_item.trace or None, states.FAILURE)
    for failure, _, used_up in outcome.parked.values():
        for item in failure.messages:
            if type(item) is ReplyRequest and failure.exception is not None:
                state = states.FAILURE if used_up else states.RETRY
                yield Failed(item.raw, _can_be_raised(failure.exception), failure.trace, state)
    for skipped in outcome.skipped:
        if skipped.why != "duplicate":
            yield Failed(skipped.raw, MessageError(skipped.why), None, states.REVOKED)


def _exception_of(dead_letter_item: DeadLetterItem, error: BaseException | None) -> BaseException:
    """The exception that a caller gets who waits for the result of a message that became a dead letter."""
    if dead_letter_item.reason == "computation-failed" and error is not None:
        return _can_be_raised(error)
    match dead_letter_item.reason:
        case "kills-the-worker":
            return cast(BaseException, WorkerLostError(dead_letter_item.error))
        case "unknown-task":
            return cast(BaseException, NotRegistered(dead_letter_item.task))
        case "unreadable-state":
            return StateError(dead_letter_item.error)
        case _:
            return MessageError(dead_letter_item.error)


def _can_be_raised(error: BaseException) -> BaseException:
    """The error, or a RuntimeError in place of one that would end the waiting process, such as SystemExit."""
    return error if isinstance(error, Exception) else RuntimeError(describe(error))
