"""What is told of messages that did not go well: failures, retries, and what was revoked or has expired; as commands of the commit.

What Celery's worker does then is done by Celery's own code: the result, error callbacks, the rest of a chain, the part of a chord.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

from celery import states
from celery.exceptions import NotRegistered, WorkerLostError

from celery_partitions.model.errors import MessageError, StateError, describe
from celery_partitions.model.items import DeadLetterItem, ReplyRequest
from celery_partitions.model.messages import name_of
from celery_partitions.model.outcome import Failure, Outcome
from celery_partitions.results.replies import Replies
from celery_partitions.store.client import UNWELL
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import Batch, OwnedPartition

logger = logging.getLogger("celery.worker.partitions")


class FailureReplies:
    """Made once a loop, used by its thread."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies

    def commands_of(self, owned: OwnedPartition, batch: Batch, outcome: Outcome) -> list[list[Any]]:
        """The commands that tell of an outcome's failures, retries, and what was revoked or has expired.

        A failure is told once: when the message becomes a dead letter, or when its retries are used up and its key waits on.
        """
        commands: list[list[Any]] = []
        told_before = self._told_before(owned, batch)
        for raw, error, trace, state in self._endings(batch, outcome):
            if raw is told_before and state != states.RETRY:
                continue
            try:
                commands += self._tell(owned.partition, raw, error, trace, state)
            except UNWELL:
                raise
            except Exception:
                text = "partition %s: a message's failure could not be told to who waits for it"
                logger.exception(text, owned.partition, extra=log_fields(owned.partition, message_id=name_of(raw)[1]))
        return commands

    def _told_before(self, owned: OwnedPartition, batch: Batch) -> bytes | None:
        """The message whose retries were used up before, if the batch begins with it."""
        key = batch.mailbox_of
        known = None if key is None else owned.parked.get(key)
        return batch.messages[0] if known is not None and known.dead_letter is not None and batch.messages else None

    def _endings(self, batch: Batch, outcome: Outcome) -> Iterator[tuple[bytes, BaseException, str | None, str]]:
        """(message, exception, traceback, Celery's state) of what did not go well."""
        failures: dict[int, Failure] = {id(one.item.raw): one for one in outcome.failures}
        for dead_letter_item, _ in outcome.dead:
            if dead_letter_item.message_id is None:
                continue  # too long to be opened, or none of Celery's
            failure = failures.get(id(dead_letter_item.raw))
            error = None if failure is None else failure.exception
            yield dead_letter_item.raw, _exception_of(dead_letter_item, error), dead_letter_item.trace or None, states.FAILURE
        for failure, _, used_up in outcome.parked.values():
            if type(failure.item) is ReplyRequest and failure.exception is not None:
                state = states.FAILURE if used_up else states.RETRY
                yield failure.item.raw, _can_be_raised(failure.exception), failure.trace, state
        for skipped in outcome.skipped:
            if skipped.why != "duplicate":
                yield skipped.raw, MessageError(skipped.why), None, states.REVOKED

    def _tell(self, partition: str, raw: bytes, error: BaseException, trace: str | None, state: str) -> list[list[Any]]:
        try:
            request = self.replies.request_of(raw)
        except Exception:  # it has no id, or is none of Celery's
            return []
        if not isinstance(request.id, str) or not isinstance(request.get("task"), str):
            return []
        task = self.replies.app.tasks.get(request.get("task"))
        ignored = request.__dict__.get("ignore_result")
        if ignored is None:
            ignored = task is not None and task.ignore_result  # of a task that nobody knows Celery tells too
        wants = not ignored or (task is not None and task.store_errors_even_if_ignored and state == states.FAILURE)
        follows = request.errbacks or request.chain or request.chord
        if not wants and (not follows or state == states.RETRY):
            return []
        recorder, backend = self.replies.recorder_and_backend(partition)
        stand_in = task if task is not None else self.replies.app.tasks["celery.backend_cleanup"]
        with recorder.at_work(backend, stand_in, request) as commands:
            if state == states.RETRY:
                backend.mark_as_retry(request.id, error, trace, request=request, store_result=wants)
            elif state == states.REVOKED:
                backend.mark_as_revoked(request.id, str(error), request=request, store_result=wants)
            else:
                backend.mark_as_failure(request.id, error, trace, request=request, store_result=wants)
        sound = [command for command in commands if not self.replies.is_bad(command)]
        if len(sound) < len(commands):
            text = "partition %s: an error callback of message %s goes to a key that is no list"
            logger.error(text, partition, request.id, extra=log_fields(partition, message_id=request.id))
        return sound


def _exception_of(dead_letter_item: DeadLetterItem, error: BaseException | None) -> BaseException:
    """What is raised at whoever waits for a message that became a dead letter."""
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
    """SystemExit and its like would end the process that waits."""
    return error if isinstance(error, Exception) else RuntimeError(describe(error))
