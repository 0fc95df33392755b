"""With `PARTITIONS_TRACING`: steps and commits that also create spans. A loop is given them in place of the plain ones.

The step itself is unchanged. It iterates over a sequence that starts a span when it yields a message, and ends the message when it
is asked for the next one.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, overload

import redis

from celery_partitions.model.items import DeadLetterItem, Item, ReplyRequest, Work
from celery_partitions.model.message_writer import Cause
from celery_partitions.model.outcome import Outcome, States
from celery_partitions.model.step import step
from celery_partitions.model.step_rules import StepRules
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.commits import Commit, CommitStore, Reply, SentCommit
from celery_partitions.store.names import INGRESS

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from celery_partitions.tracing.spans import Tracing

logger = logging.getLogger("celery.worker.partitions")


def check_tracing(installation: Installation) -> None:
    """Warn if tracing is on but no tracer provider is configured. Raises `SetupError` if OpenTelemetry is not installed."""
    if installation.tracing is not None and not installation.tracing.is_configured:
        logger.warning("partitions: PARTITIONS_TRACING is on, but no tracer provider is configured: no spans are exported")


@dataclass(slots=True)
class MessageTry:
    """A message that the step received, and its span."""

    index: int
    item: Work | DeadLetterItem
    span: Span
    #: Nanoseconds since the epoch.
    ended: int = 0


class _Watched(Sequence[Item]):
    """The items of one step."""

    def __init__(self, tracing: Tracing, items: Sequence[Item], partition: str, attempt: int) -> None:
        self.tracing, self.items, self.partition, self.attempt = tracing, items, partition, attempt
        self.tries: list[MessageTry] = []

    def __len__(self) -> int:
        return len(self.items)

    @overload
    def __getitem__(self, index: int) -> Item: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[Item]: ...
    def __getitem__(self, index: Any) -> Any:
        return self.items[index]

    def __iter__(self) -> Iterator[Item]:
        tracing = self.tracing
        for index, item in enumerate(self.items):
            if not isinstance(item, Work | DeadLetterItem):
                yield item
                continue
            context = self.begin(index, item)
            token = tracing.enter(context)
            try:
                yield item
            finally:  # the step asks for the next message, or has ended
                if type(item) is ReplyRequest:
                    item.trace_headers = tracing.current_headers()
                tracing.leave(token)
                self.tries[-1].ended = time.time_ns()

    def begin(self, index: int, item: Work | DeadLetterItem) -> Any:
        """Start the span of a message. Returns the context in which the message runs."""
        task = item.computation.name if isinstance(item, Work) else item.task or "unknown"
        attempt = self.attempt if index == 0 else 1
        span, context = self.tracing.process(task, self.partition, item.raw, item.key, attempt)
        self.tries.append(MessageTry(index, item, span))
        return context


class TracedSteps:
    """Made once per loop and used by its thread, except `message` and `ended`, which the thread of calls uses."""

    def __init__(self, tracing: Tracing) -> None:
        self.tracing = tracing
        #: The spans of each partition's steps since its last commit, to which the next one links.
        self.spans: dict[str, list[Span]] = {}

    def step(self, items: Sequence[Item], states: States, rules: StepRules, **more: Any) -> Outcome:
        """`celery_partitions.model.step.step`, with a span for each message that is processed or becomes a dead letter."""
        partition = INGRESS if rules.partition < 0 else str(rules.partition)
        watched = _Watched(self.tracing, items, partition, more.get("attempt", 1))
        first = items[0] if items else None
        if more.get("failed") is not None and isinstance(first, Work):  # it is not called again
            watched.begin(0, first)
        outcome = step(watched, states, rules, **more)
        self.spans.setdefault(partition, []).extend(self.judged(watched.tries, outcome))
        return outcome

    @contextmanager
    def message(self, partition: str, item: Item, attempt: int) -> Iterator[MessageTry | None]:
        """Around a message that runs outside the loop's thread, in its own context. Its span ends with `ended`."""
        if not isinstance(item, Work | DeadLetterItem):
            yield None
            return
        task = item.computation.name if isinstance(item, Work) else item.task or "unknown"
        span, context = self.tracing.process(task, partition, item.raw, item.key, attempt)
        one = MessageTry(0, item, span)
        token = self.tracing.enter(context)
        try:
            yield one
        finally:
            if type(item) is ReplyRequest:
                item.trace_headers = self.tracing.current_headers()
            self.tracing.leave(token)
            one.ended = time.time_ns()

    def ended(self, partition: str, one: MessageTry | None, outcome: Outcome) -> None:
        """The message of a call has its outcome. The partition's next commit links to its span."""
        if one is not None:
            self.spans.setdefault(partition, []).extend(self.judged([one], outcome))

    def judged(self, tries: Sequence[MessageTry], outcome: Outcome) -> list[Span]:
        """End the spans of the messages that were tried, with their outcomes."""
        done = {id(work) for work in outcome.done}
        failures = {id(failure.item): failure for failure in outcome.failures}
        dead = {dead_letter_item.raw: dead_letter_item for dead_letter_item, _ in outcome.dead}
        spans = []
        for one in tries:
            item, failure, dead_letter = one.item, failures.get(id(one.item)), dead.get(one.item.raw)
            if one.index >= outcome.taken and failure is None:
                continue  # the step ended before this message; a span that is not ended is not exported
            ended = one.ended or None
            if id(item) in done:
                self.tracing.end(one.span, "done", None, None, ended)
            elif dead_letter is not None:
                self.tracing.end(one.span, dead_letter.reason, dead_letter.error, failure, ended)
            elif failure is not None:
                self.tracing.end(one.span, "retried", failure.error, failure, ended)
            else:
                self.tracing.end(one.span, "waits", None, None, ended)
            spans.append(one.span)
        return spans

    def make_cause(self, message_id: str, root_id: object, sent_at: object, event_time: float | None) -> Cause:
        """The cause of a message's outputs, made while the message runs, so that outputs carry its span's context."""
        cause = Cause(message_id, root_id, sent_at, event_time)
        cause.add_headers(self.tracing.current_headers())
        return cause


class TracedStore(CommitStore):
    """Sends commits, each in a span from the first try to its answer."""

    def __init__(self, plain: CommitStore, traced: TracedSteps) -> None:
        super().__init__(
            plain.client,
            plain.names,
            batch_messages=plain.batch_messages,
            batch_bytes=plain.batch_bytes,
            replicas=plain.replicas,
        )
        self.tracing, self.spans = traced.tracing, traced.spans
        #: The commit in flight and its span, by partition.
        self._open: dict[str, tuple[Commit, Span]] = {}

    def begin(self, commit: Commit) -> SentCommit:
        partition = commit.lease.partition
        if partition not in self._open or self._open[partition][0] is not commit:
            self._end(partition, "given-up", "no answer came")
            span = self.tracing.commit(partition, commit.taken, self.spans.pop(partition, []))
            if span is not None:
                self._open[partition] = commit, span
        return super().begin(commit)

    def finish(self, sent: SentCommit) -> Reply:
        partition = sent.commit.lease.partition
        try:
            reply = super().finish(sent)
        except redis.ResponseError as error:
            self._end(partition, "refused", str(error))
            raise
        self._answered(partition, reply)
        return reply

    def send(self, commit: Commit) -> Reply:
        reply = super().send(commit)
        if commit.commit_number is not None:  # a peek has no commit number
            self._answered(commit.lease.partition, reply)
        return reply

    def _answered(self, partition: str, reply: Reply) -> None:
        written = reply.status in ("ok", "already")
        self._end(partition, reply.status, None if written else "not written: its messages are still in the queue")

    def _end(self, partition: str, outcome: str, error: str | None) -> None:
        _, span = self._open.pop(partition, (None, None))
        if span is not None:
            self.tracing.end(span, outcome, error, None)
