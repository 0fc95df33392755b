"""What is told of messages that did not go well: failures, retries, and what was revoked or has expired; as commands of the commit.

What Celery's worker does then is done by Celery's own code: the result, error callbacks, the rest of a chain, the part of a chord.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any, cast

from celery import states
from celery.exceptions import NotRegistered, WorkerLostError

from celery_partitions.model.errors import MessageError, StateError, say
from celery_partitions.model.messages import name_of
from celery_partitions.model.outcome import Failure, Outcome
from celery_partitions.model.reading import Asked, Broken
from celery_partitions.store.client import UNWELL
from celery_partitions.worker.lane import Batch, Lane
from celery_partitions.worker.logs import told
from celery_partitions.worker.replies import Replies

logger = logging.getLogger("celery.worker.partitions")


class Telling:
    """Made once a loop, used by its thread."""

    def __init__(self, replies: Replies) -> None:
        self.replies = replies

    def told(self, lane: Lane, batch: Batch, outcome: Outcome) -> list[list[Any]]:
        """The commands that tell of an outcome's failures, retries, and what was revoked or has expired.

        A failure is told once: when the message becomes a dead letter, or when its retries are used up and its key waits on.
        """
        commands: list[list[Any]] = []
        told_before = self._told_before(lane, batch)
        for raw, error, trace, state in self._endings(batch, outcome):
            if raw is told_before and state != states.RETRY:
                continue
            try:
                commands += self._tell(lane.unit, raw, error, trace, state)
            except UNWELL:
                raise
            except Exception:
                text = "partition %s: a message's failure could not be told to who waits for it"
                logger.exception(text, lane.unit, extra=told(lane.unit, message_id=name_of(raw)[1]))
        return commands

    def _told_before(self, lane: Lane, batch: Batch) -> bytes | None:
        """The message whose retries were used up before, if the batch begins with it."""
        key = batch.mailbox_of
        known = None if key is None else lane.parked.get(key)
        return batch.messages[0] if known is not None and known.letter is not None and batch.messages else None

    def _endings(self, batch: Batch, outcome: Outcome) -> Iterator[tuple[bytes, BaseException, str | None, str]]:
        """(message, exception, traceback, Celery's state) of what did not go well."""
        failures: dict[int, Failure] = {id(one.item.raw): one for one in outcome.failures}
        for broken, _ in outcome.dead:
            if broken.message_id is None:
                continue  # too long to be opened, or none of Celery's
            failure = failures.get(id(broken.raw))
            error = None if failure is None else failure.exception
            yield broken.raw, _exception_of(broken, error), broken.trace or None, states.FAILURE
        for failure, _, used_up in outcome.parked.values():
            if type(failure.item) is Asked and failure.exception is not None:
                state = states.FAILURE if used_up else states.RETRY
                yield failure.item.raw, _can_be_raised(failure.exception), failure.trace, state
        for skipped in outcome.skipped:
            if skipped.why != "duplicate":
                yield skipped.raw, MessageError(skipped.why), None, states.REVOKED

    def _tell(self, unit: str, raw: bytes, error: BaseException, trace: str | None, state: str) -> list[list[Any]]:
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
        recorder, backend = self.replies.recorder_and_backend(unit)
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
            logger.error(text, unit, request.id, extra=told(unit, message_id=request.id))
        return sound


def _exception_of(broken: Broken, error: BaseException | None) -> BaseException:
    """What is raised at whoever waits for a message that became a dead letter."""
    if broken.reason == "computation-failed" and error is not None:
        return _can_be_raised(error)
    match broken.reason:
        case "kills-the-worker":
            return cast(BaseException, WorkerLostError(broken.error))
        case "unknown-task":
            return cast(BaseException, NotRegistered(broken.task))
        case "unreadable-state":
            return StateError(broken.error)
        case _:
            return MessageError(broken.error)


def _can_be_raised(error: BaseException) -> BaseException:
    """SystemExit and its like would end the process that waits."""
    return error if isinstance(error, Exception) else RuntimeError(say(error))
