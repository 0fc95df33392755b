"""Reports committed messages to Celery's tools: task events, counters and log lines.

An event costs a monitor 34 µs, so events are sent in groups. Beyond the budget (PARTITIONS_EVENTS_PER_SECOND) only a sample of the
tasks is reported. The sample is limited by a token bucket of one second.
"""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Container
from operator import attrgetter
from typing import Any

import msgspec
from billiard.einfo import ExceptionInfo
from celery import Celery, signals
from celery.worker import state as worker_state

from celery_partitions.model.effects import TURN_REASONS
from celery_partitions.model.items import DeadLetterItem, ReplyRequest, Skipped, Work
from celery_partitions.model.keys import shown_key
from celery_partitions.model.messages import details_of
from celery_partitions.model.outcome import Failure, Outcome, Park, Waiting
from celery_partitions.worker.celery_context import request_of
from celery_partitions.worker.logs import log_fields, log_fields_of
from celery_partitions.worker.measurer import Measurer
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.planned_commit import PendingCommit

logger = logging.getLogger("celery.worker.partitions")

#: Monitors show no more of the arguments than this.
MAX_ARGUMENT_CHARACTERS = 200
#: How many failures, and how many dead letters, of one batch are logged: bad input must not flood the log.
MAX_LINES = 5
#: How often dropped late messages are logged.
LATE_SECONDS = 60.0
#: How long events are collected before they are sent. Sending takes 0.4 ms plus 5 µs per event, in the loop's thread. Four times a
#: second this delays few messages; twenty times a second it raised the 99th percentile of latency from 1.4 to 1.9 ms.
FLUSH_SECONDS = 0.25
#: After a failure no events are sent for so long: a connection attempt may take until its timeout, and the loop waits for it.
REST_SECONDS = 5.0

_computation = attrgetter("computation")


class Reports:
    """Only the loop's thread calls it, after a commit. Failing to send events never raises."""

    def __init__(
        self,
        app: Celery,
        node: str,
        events_per_second: float,
        enabled: Callable[[], bool],
        plain_task: Container[str],
        measurer: Measurer | None = None,
    ) -> None:
        self.app, self.node, self.rate, self.enabled = app, node, events_per_second, enabled
        #: The names of Celery tasks that are not computations.
        self.plain_tasks = plain_task
        self.measurer = measurer
        # Without retries: they would block the loop, and all its partitions, for seconds.
        self._connection = app.connection_for_write(transport_options={"max_retries": 0})
        #: Celery's tracer for plain tasks uses it too.
        self.dispatcher = app.events.Dispatcher(
            self._connection, hostname=node, buffer_group={"task"}, buffer_limit=10_000, buffer_while_offline=False
        )
        #: Late messages that were not logged yet, by partition.
        self._late: dict[str, int] = {}
        self._late_logged_at: float | None = None
        self._tokens = events_per_second
        self._filled_at = self._flushed_at = time.monotonic()

    def committed(self, pending: PendingCommit) -> None:
        """After an outcome was written: count it, log its failures and dead letters, and send events for a sample."""
        partition, outcome, commit_number = pending.owned.partition, pending.outcome, pending.planned.commit.commit_number or 0
        counted: Counter[str] = Counter()
        for computation, count in Counter(map(_computation, outcome.done)).items():
            counted[computation.name] += count
        if self.measurer is not None:
            self.measurer.committed(pending, counted)
        for name, count in counted.items():
            worker_state.total_count[name] = worker_state.total_count.get(name, 0) + count
        worker_state.all_total_count[0] += len(outcome.done)
        parks = _parks_of(outcome)
        for failure in outcome.failures[:MAX_LINES]:
            self.log_failure(partition, failure, parks.get(id(failure)))
        for key, waiting in outcome.waiting.items():
            if waiting.attempt == 1 and waiting.reason not in TURN_REASONS:
                self.log_waiting(partition, key, waiting)
        if outcome.late:
            self.log_late(partition, outcome.late)
        if outcome.pause:
            text = "partition %s: paused by a failure policy until an operator resumes it"
            logger.error(text, partition, extra=log_fields(partition))
        for number, (dead_letter_item, attempts) in enumerate(outcome.dead[:MAX_LINES]):
            self.log_dead_letter(partition, f"{partition}-{commit_number}-{number}", dead_letter_item, attempts)
        unlogged = max(0, len(outcome.failures) - MAX_LINES) + max(0, len(outcome.dead) - MAX_LINES)
        if unlogged:
            text = "partition %s: %d more failures and dead letters in this batch"
            logger.warning(text, partition, unlogged, extra=log_fields(partition, unlogged=unlogged))
        if outcome.failures and (signals.task_failure.receivers or signals.task_retry.receivers):
            self.send_signals(outcome)
        if self.enabled():
            self.send_events(outcome)
        outcome.forget_frames()

    def fenced(self, partition: str) -> None:
        """After a commit was refused because another worker owns the partition."""
        text = "partition %s: another worker has taken over; dropping this worker's uncommitted batch"
        logger.warning(text, partition, extra=log_fields(partition))
        if self.measurer is not None:
            self.measurer.fenced(partition)

    def removed(self, owned: OwnedPartition) -> None:
        """After something other than a commit took messages out of a queue."""
        if self.measurer is not None:
            self.measurer.removed(owned)

    def send_signals(self, outcome: Outcome) -> None:
        """Celery's signals for failures: `task_failure` for a message that is given up, `task_retry` for another one."""
        parks = _parks_of(outcome)
        for failure in outcome.failures:
            task, error, item = self.app.tasks.get(failure.item.computation.name), failure.exception, failure.item
            if task is None or error is None:
                continue
            einfo, request = ExceptionInfo(_exc_info(failure)), request_of(item, failure.attempt, self.node)
            if failure.is_halved or not _is_given_up(parks.get(id(failure))):
                signals.task_retry.send(sender=task, request=request, reason=error, einfo=einfo)
                continue
            details = {"task_id": request.id, "exception": error, "args": request.args, "kwargs": {}, "traceback": failure.frames, "einfo": einfo}
            signals.task_failure.send(sender=task, **details)

    def log_failure(self, partition: str, failure: Failure, park: Park | None) -> None:
        """A retry is a warning. A message that is given up is an error with its exception, as a plain Celery task's failure is."""
        item, is_given_up = failure.item, not failure.is_halved and _is_given_up(park)
        logger.log(
            logging.ERROR if is_given_up else logging.WARNING,
            "%s of key %r raised %s (message %s%s, try %d); %s",
            item.computation.name,
            item.key,
            failure.error,
            item.envelope.headers.id,
            f" and {len(failure.others)} more" if failure.others else "",
            failure.attempt,
            "the next call gets half of its messages" if failure.is_halved else _what_follows(park),
            exc_info=_exc_info(failure) if is_given_up else None,
            extra=log_fields_of(partition, item, attempt=failure.attempt, error=failure.error),
        )

    def log_late(self, partition: str, count: int) -> None:
        """Once a minute."""
        self._late[partition] = self._late.get(partition, 0) + count
        now = time.monotonic()
        if self._late_logged_at is None or now - self._late_logged_at >= LATE_SECONDS:
            self._late_logged_at = now
            counts = ", ".join(f"{number} in partition {one}" for one, number in sorted(self._late.items()))
            self._late = {}
            text = "late messages were dropped, because their windows were closed: %s. See with_delay and with_late_data_policy"
            logger.warning(text, counts, extra=log_fields(partition))

    def log_waiting(self, partition: str, key: str, waiting: Waiting) -> None:
        """Once, when the first message begins to wait."""
        text = "partition %s: %s. The messages of key %r wait in order, for at most PARTITIONS_DEPLOY_WAIT_SECONDS (first: task %s, message %s)"
        fields = log_fields(
            partition, key=key, message_id=waiting.message_id, task=waiting.task, reason=waiting.reason, error=waiting.error
        )
        logger.warning(text, partition, waiting.error.rstrip("."), key, waiting.task, waiting.message_id, extra=fields)

    def log_dead_letter(self, partition: str, dead_letter: str, dead_letter_item: DeadLetterItem, attempts: int) -> None:
        """An error, unless the failure that caused it was logged as one."""
        logger.log(
            logging.WARNING if dead_letter_item.reason == "computation-failed" else logging.ERROR,
            "dead letter %s: %s: %s (task %s, message %s)",
            dead_letter,
            dead_letter_item.reason,
            dead_letter_item.error,
            dead_letter_item.task,
            dead_letter_item.message_id,
            extra=log_fields(
                partition,
                key=dead_letter_item.key,
                message_id=dead_letter_item.message_id,
                task=dead_letter_item.task,
                attempt=attempts,
                dead_letter=dead_letter,
                reason=dead_letter_item.reason,
                error=dead_letter_item.error,
            ),
        )

    def send_events(self, outcome: Outcome) -> None:
        done, began = outcome.done, outcome.began
        now = time.time() - time.monotonic()  # converts the step's clock to wall-clock time
        for number in self.sample(len(done)):
            after = began[number + 1] if number + 1 < len(began) else outcome.ended
            self.send_done(done[number], began[number] + now, after - began[number])
        for failure in outcome.failures[: self.take(len(outcome.failures))]:
            self.send_failed(failure)
        revoked = [one for one in outcome.skipped if one.why != "duplicate"]
        for skipped in revoked[: self.take(len(revoked))]:
            self.send_skipped(skipped)

    def sample(self, count: int) -> range:
        """The indexes of the tasks to report, evenly spread over the batch."""
        granted = self.take(count)
        return range(0, count, -(-count // granted)) if granted else range(0)

    def take(self, wanted: int) -> int:
        """Take up to `wanted` tokens; returns how many were available."""
        now = time.monotonic()
        self._tokens = min(self.rate, self._tokens + (now - self._filled_at) * self.rate)
        self._filled_at = now
        granted = min(wanted, int(self._tokens))
        self._tokens -= granted
        return granted

    def send_done(self, work: Work, began: float, runtime: float) -> None:
        self.send("task-received", work, timestamp=began, **self.description(work))
        self.send("task-started", work, timestamp=began)
        shown = work.value[:MAX_ARGUMENT_CHARACTERS] if isinstance(work, ReplyRequest) else "None"
        self.send("task-succeeded", work, timestamp=began + runtime, runtime=runtime, result=shown)

    def send_failed(self, failure: Failure) -> None:
        self.send("task-received", failure.item, **self.description(failure.item))
        self.send("task-started", failure.item)
        self.send("task-failed", failure.item, exception=failure.error, traceback=failure.trace)

    def send_skipped(self, skipped: Skipped) -> None:
        self.dispatcher.send(
            "task-revoked", uuid=skipped.headers.id, terminated=False, signum=None, expired=skipped.why == "expired"
        )

    def description(self, work: Work) -> dict[str, Any]:
        headers = details_of(work.raw)
        arguments, keywords = _called_with(work.envelope.body)
        if isinstance(headers.argsrepr, str):
            arguments = headers.argsrepr
        return {
            "name": work.computation.name,
            "args": f"key={shown_key(work.key)} {arguments[:MAX_ARGUMENT_CHARACTERS]}",
            "kwargs": keywords[:MAX_ARGUMENT_CHARACTERS],
            "root_id": headers.root_id,
            "parent_id": headers.parent_id,
            "retries": 0,
            "eta": None,
            "expires": None,
        }

    def send(self, event: str, work: Work, **fields: Any) -> None:
        self.dispatcher.send(event, uuid=work.envelope.headers.id, **fields)

    def flush_if_due(self) -> float | None:
        """Send waiting events and measurements if they are due. Returns the seconds until the next are due; None: nothing waits."""
        waits = [self.flush_events_if_due(), None if self.measurer is None else self.measurer.write_if_due()]
        return min((seconds for seconds in waits if seconds is not None), default=None)

    def flush_events_if_due(self) -> float | None:
        if not any(self.dispatcher._group_buffer.values()):
            return None
        left = self._flushed_at + FLUSH_SECONDS - time.monotonic()
        if left > 0:
            return left
        self.flush()
        return None

    def flush(self) -> None:
        """Send all waiting events in one message."""
        self._flushed_at = time.monotonic()
        try:
            self.dispatcher.flush()
        except Exception as error:
            self.dispatcher._group_buffer.clear()
            self._flushed_at += REST_SECONDS
            logger.info("cannot send task events (%s); they are dropped", error)

    def close(self) -> None:
        if self.measurer is not None:
            self.measurer.write()
        self.flush()
        self.dispatcher.close()
        self._connection.release()


def _called_with(body: bytes) -> tuple[str, str]:
    """A message's arguments and keyword arguments as JSON. For any other body: the whole body."""
    try:
        arguments, keywords, *_ = msgspec.json.decode(body)
        return msgspec.json.encode(arguments).decode(), msgspec.json.encode(keywords).decode()
    except (msgspec.DecodeError, TypeError, ValueError, RecursionError):
        return body.decode("utf-8", "replace"), "{}"


def _parks_of(outcome: Outcome) -> dict[int, Park]:
    """What is parked, by the `id()` of its failure. It is not always the message's key: it may be an own line of it, or a former key."""
    return {id(park.failure): park for park in outcome.parked.values()}


def _is_given_up(park: Park | None) -> bool:
    """Whether a failed message is not retried by itself. With the policy `park` it is retried forever, so no failure is the last one."""
    return park is None or (park.used_up and not park.seconds)


def _exc_info(failure: Failure) -> Any:
    return failure.exception and (type(failure.exception), failure.exception, failure.frames)


def _what_follows(park: Park | None) -> str:
    if park is None:
        return "no retry is left"
    if park.seconds is None:
        return "no retry is left; the key waits for an operator"
    return f"the key waits; next try in {park.seconds:.1f} s"
