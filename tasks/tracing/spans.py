"""The spans: their names, attributes and relations.

Names and attributes follow OpenTelemetry's messaging conventions; additional ones start with `celery_partitions.`. A message's
headers carry the context of its sending, in the format of the configured propagator (default: W3C `traceparent` and `tracestate`).
If that context is not sampled, no spans are created, and the context is passed on. Without a tracer provider, OpenTelemetry creates
spans that do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from contextlib import contextmanager
from contextvars import Token
from typing import Any

from opentelemetry import context as contexts
from opentelemetry import propagate, trace
from opentelemetry.context import Context
from opentelemetry.trace import Link, Span, SpanKind, Status, StatusCode, TracerProvider

from celery_partitions.model.keys import shown_key
from celery_partitions.model.outcome import Failure
from celery_partitions.store.names import Names
from celery_partitions.tracing.headers import encode_headers, headers_of, texts_of

#: Set in a context while user code runs in one of our spans: messages that it sends belong to the trace.
_OURS = contexts.create_key("celery-partitions")

_NOTHING = Context()


class Sent:
    """The span of a message that is being sent."""

    def __init__(self, span: Span) -> None:
        self._span = span

    def is_of(self, message_id: str) -> None:
        """Record the id that Celery gave the message."""
        self._span.set_attribute("messaging.message.id", message_id)
        self._span.set_attribute("messaging.message.conversation_id", message_id)


class Tracing:
    """Creates the spans of one group. `with_keys`: add message keys, which may be personal data."""

    def __init__(self, names: Names, *, with_keys: bool, provider: TracerProvider | None = None) -> None:
        self.names, self.with_keys = names, with_keys
        # Without `provider`: the global provider, even if it is configured later.
        self.tracer = trace.get_tracer("celery-partitions", tracer_provider=provider)

        self._has_own = provider is not None
        #: The headers that the propagator reads.
        self.fields = tuple(sorted(propagate.get_global_textmap().fields))

    @property
    def is_configured(self) -> bool:
        """Whether a tracer provider receives the spans."""
        return self._has_own or not isinstance(trace.get_tracer_provider(), trace.ProxyTracerProvider)

    # Sending.

    @contextmanager
    def sending(self, task: str, queue: str, key: Callable[[], str], headers: dict[str, Any]) -> Iterator[Sent]:
        """Wrap the sending of one message in a span, and put its context into `headers` unless they already have one.

        The span records an exception raised inside.
        """
        if self._is_refused(contexts.get_current()):
            self.carry(headers)
            yield Sent(trace.INVALID_SPAN)
            return
        attributes = self._about("send", task, queue)
        if self.with_keys:
            attributes["celery_partitions.key"] = shown_key(key())
        with self.tracer.start_as_current_span(f"send {task}", kind=SpanKind.PRODUCER, attributes=attributes) as span:
            self.carry(headers)
            yield Sent(span)

    def created(self, task: str, queue: str, message_id: str, key: Callable[[], str] | None = None) -> dict[str, str]:
        """Record the creation of one message of a bulk send, or by Celery's `send_task`. Returns the headers of its context."""
        carrier: dict[str, str] = {}
        current = contexts.get_current()
        if self._is_refused(current):
            propagate.inject(carrier, current)
            return carrier
        attributes = self._about("create", task, queue, message_id)
        if self.with_keys and key is not None:
            attributes["celery_partitions.key"] = shown_key(key())
        span = self.tracer.start_span(f"create {task}", current, SpanKind.PRODUCER, attributes)
        span.end()
        propagate.inject(carrier, trace.set_span_in_context(span, current))
        return carrier

    def carry(self, headers: MutableMapping[str, Any]) -> None:
        """Put the current context into a message's headers, unless they already have one."""
        if not self.is_carried(headers):
            propagate.inject(headers)

    def is_carried(self, headers: Mapping[str, Any]) -> bool:
        """Whether the headers already have a context."""
        return any(headers.get(name) is not None for name in self.fields)

    @staticmethod
    def is_inside() -> bool:
        """Whether a computation's code is running in one of our spans."""
        return contexts.get_value(_OURS) is not None

    def current_headers(self) -> bytes:
        """The headers of the current context, encoded for a raw message."""
        carrier: dict[str, str] = {}
        propagate.inject(carrier)
        return encode_headers(carrier)

    # Processing.

    def process(self, task: str, partition: str, raw: bytes, key: str | None, attempt: int) -> tuple[Span, Context]:
        """Start the span of processing a message. Returns it and the context for the computation. The caller ends the span."""
        headers = headers_of(raw)
        context = propagate.extract(texts_of(headers, self.fields), _NOTHING)
        links: list[Link] = []
        if headers.get("timer") is not None:
            # Timers may set the next one for as long as the key has open windows: each fires in a new trace, with a link.
            setter = trace.get_current_span(context).get_span_context()
            links = [Link(setter)] if setter.is_valid and setter.trace_flags.sampled else []
            context = _NOTHING
        context = contexts.set_value(_OURS, True, context)
        if self._is_refused(context):
            return trace.get_current_span(context), context
        attributes = self._about("process", task, self.names.queue_name(partition), headers.get("id"))
        root = headers.get("root_id")
        if isinstance(root, str):
            attributes["messaging.message.conversation_id"] = root
        if self.with_keys and key is not None:
            attributes["celery_partitions.key"] = shown_key(key)
        if attempt > 1:
            attributes["celery_partitions.attempt"] = attempt
        span = self.tracer.start_span(f"process {task}", context, SpanKind.CONSUMER, attributes, links)
        return span, trace.set_span_in_context(span, context)

    @contextmanager
    def continued(self, raw: bytes) -> Iterator[None]:
        """Run the block in a message's context, so that messages sent inside belong to its trace."""
        token = self.enter(propagate.extract(texts_of(headers_of(raw), self.fields), _NOTHING))
        try:
            yield
        finally:
            self.leave(token)

    @staticmethod
    def enter(context: Context) -> Token[Context]:
        """Make a context the current one, until `leave`."""
        return contexts.attach(context)

    @staticmethod
    def leave(token: Token[Context]) -> None:
        contexts.detach(token)

    @staticmethod
    def end(span: Span, outcome: str, error: str | None, failure: Failure | None, at: int | None = None) -> None:
        """End the span of a message or a commit.

        `outcome`: the result, in one word; `error`: the reason if it failed; `failure`: given if a computation raised; `at`:
        nanoseconds since the epoch, None: now.
        """
        if span.is_recording():
            span.set_attribute("celery_partitions.outcome", outcome)
            if failure is not None and failure.exception is not None:
                span.record_exception(failure.exception, {"exception.stacktrace": failure.trace}, timestamp=at)
                span.set_attribute("error.type", type(failure.exception).__qualname__)
            elif error is not None:
                span.set_attribute("error.type", outcome)
            if error is not None:
                span.set_status(Status(StatusCode.ERROR, error))
        span.end(at)

    # Committing.

    def commit(self, partition: str, messages: int, spans: Sequence[Span]) -> Span | None:
        """Start the span of a batch's commit; None if none of its messages is sampled.

        It links to the spans of its messages, and belongs to the first one's trace. In a separate trace, it would be sampled
        independently of them.
        """
        sampled = [span for span in spans if span.get_span_context().trace_flags.sampled]
        if not sampled:
            return None
        queue = self.names.queue_name(partition)
        attributes = self._about("commit", None, queue) | {"messaging.batch.message_count": messages}
        return self.tracer.start_span(
            f"commit {self.names.group}",
            trace.set_span_in_context(sampled[0], _NOTHING),
            SpanKind.CLIENT,
            attributes,
            links=[Link(span.get_span_context()) for span in sampled],
        )

    # What is common.

    def _about(self, operation: str, task: str | None, queue: str, message_id: object = None) -> dict[str, Any]:
        attributes: dict[str, Any] = {
            "messaging.system": "celery",
            "messaging.operation.name": operation,
            "messaging.operation.type": "settle" if operation == "commit" else operation,
            "messaging.destination.name": queue,
        }
        partition = self.names.partition_of_queue(queue)
        if partition is not None and partition.isdigit():
            attributes["messaging.destination.template"] = f"{self.names.group}.{{number}}"
            attributes["messaging.destination.partition.id"] = partition
        if task is not None:
            attributes["celery.task_name"] = task
        if isinstance(message_id, str):
            attributes["messaging.message.id"] = message_id
        return attributes

    @staticmethod
    def _is_refused(context: Context) -> bool:
        """Whether the context belongs to a trace that is not sampled."""
        parent = trace.get_current_span(context).get_span_context()
        return parent.is_valid and not parent.trace_flags.sampled
