"""Makes what a message sends through its pipeline: messages to other stages and to sinks. Encodes each value at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from celery_partitions.model.computation import Computation, HopNode, SinkNode, extracted_key
from celery_partitions.model.effects import Delivery, Emission, Hop, Push
from celery_partitions.model.errors import EventTimeAhead, MessageError
from celery_partitions.model.items import Work
from celery_partitions.model.keys import SHORT_KEY
from celery_partitions.model.message_writer import Cause, MessageWriter, escape, json_text, unescape
from celery_partitions.model.messages import MAX_SECONDS, HeadersWithOrigin, details_of, origin_of
from celery_partitions.model.outcome import Pickling
from celery_partitions.model.sinks import ListSink, QueueSink, StreamSink
from celery_partitions.model.values import ANY_VALUE, TIMER, dump_value


@dataclass(frozen=True, slots=True, kw_only=True)
class Calling:
    """What calls need besides states."""

    partition: int
    pickling: Pickling
    #: Whether plain computations without a time limit are called directly, instead of being yielded as a `Call`.
    inline: bool
    #: Makes the messages of outputs. None if there are no pipelines.
    writer: MessageWriter | None
    #: The server's time, in seconds since the epoch.
    now: float
    #: `Context.resources`.
    resources: Mapping[str, Any] = field(default_factory=dict)


class Outputs:
    """Made once per step. `begin` comes before each message."""

    item: Work
    #: What the message has sent so far.
    made: list[Emission]

    def __init__(self, calling: Calling, writer: MessageWriter) -> None:
        self.calling, self.writer = calling, writer
        self._cause: Cause | None = None
        #: The result of the source's `event_time=`, in seconds since the epoch.
        self._event_time: float | None = None

    def begin(self, item: Work) -> list[Emission]:
        """A message is applied. Returns the list of what it sends. Raises `EventTimeAhead`."""
        self.item, self._cause, self._event_time = item, None, None
        made: list[Emission] = []
        self.made = made
        if item.computation.event_time is not None and item.message is not TIMER:  # before any stage can change the message
            self._event_time = seconds_of(item.computation.event_time(item.message))
            self._refuse_ahead(self._event_time)
        return made

    def _refuse_ahead(self, event_time: float | None) -> None:
        """Raise `EventTimeAhead` if the event time is further ahead of the server's clock than the source accepts."""
        source = self.item.computation
        limit = source.max_event_time_ahead_seconds
        if event_time is not None and limit is not None and event_time - self.calling.now > limit:
            raise EventTimeAhead(
                f"the event time is {event_time - self.calling.now:.0f} s ahead of the server's clock; the source {source.name!r} "
                f"accepts {limit:g} s (max_event_time_ahead). Retry it when its time has come, or correct its sender's clock"
            )

    @property
    def cause(self) -> Cause:
        """What outputs inherit from the message. Computed on demand, because most messages have no outputs."""
        cause = self._cause
        if cause is None:
            headers = self.item.envelope.headers
            origin = headers if type(headers) is HeadersWithOrigin else origin_of(self.item.raw)
            event_time = self.event_time if self.item.computation.has_event_time else None
            cause = self._cause = self.writer.make_cause(headers.id, origin.root_id, origin.sent_at, event_time)
        return cause

    def next_id(self) -> bytes:
        """The id of the next output, escaped for JSON."""
        return self.cause.id_of(len(self.made))

    @property
    def event_time(self) -> float | None:
        """The message's event time, from its source, in seconds since the epoch."""
        if self._event_time is None and self.item.computation.has_event_time:
            self._event_time = seconds_given(details_of(self.item.raw).event_time)
        return self._event_time

    def emit(self, node: HopNode | SinkNode, value: Any) -> None:
        if type(node) is HopNode:
            self.made.append(self.hop(node, value))
        else:
            self.deliver(cast(SinkNode, node), value)

    def hop(self, node: HopNode, value: Any) -> Hop:
        stage, cause, writer = node.stage, self.cause, self.writer
        message_id = cause.id_of(len(self.made))
        body = stage.codec.encode_usual(value) if stage.takes_values else None
        if body is not None:
            key = _key_of(node, value)
        elif stage.takes_values:
            dump = self.calling.pickling.dump_value
            key = _key_of(node, value)
            body = dump_value(stage.codec, value, lambda: dump(stage.name, unescape(message_id), value))
        else:
            body, message = stage.codec.encode(value)
            key = _key_of(node, message)
        way = writer.way_to(stage.name, key)
        raw = cause.fill(way.template, message_id, body, key)
        if len(raw) > writer.max_bytes:
            raise MessageError(
                f"the message to {stage.name!r} has {len(raw)} bytes; workers decode at most {writer.max_bytes} bytes "
                "(PARTITIONS_MESSAGE_BYTES). Store large data elsewhere and send a reference",
                reason="too-large",
            )
        return Hop(way.partition, raw)

    def first_hop(self, computation: Computation, node: HopNode) -> Callable[[Work, Any], Hop | None]:
        """A function that makes what `hop` makes for the first output of a computation's message, in half of its time. It returns None, or raises,
        where only `hop` can tell: then call that."""
        stage, writer = node.stage, self.writer
        codec, extract, ways, max_bytes = stage.codec, node.extract, writer.ways_to(stage.name), writer.max_bytes
        encode_usual, decoded_before = codec.encode_usual, computation.codec.has_annotation_of(codec)

        def first_hop(item: Work, value: Any) -> Hop | None:
            envelope = item.envelope
            headers = envelope.headers
            if type(headers) is not HeadersWithOrigin:
                return None
            body = encode_usual(value, envelope.body if decoded_before else b"")
            key = extract(value)
            way = ways.get(key) if type(key) is str else None
            if body is None or way is None:
                return None
            message_id, root_id, sent_at = headers.id, headers.root_id, headers.sent_at
            name = json_text(message_id)[1:-1]
            root = name if root_id == message_id or not isinstance(root_id, str) else escape(root_id)
            sent_at = json_text(sent_at) if type(sent_at) is float or isinstance(sent_at, int | float) else b"null"
            raw = way.first_output(name, sent_at, body, root)
            return Hop(way.partition, raw) if len(raw) <= max_bytes else None

        is_usual = stage.takes_values and writer.make_cause is Cause and not computation.has_event_time
        return first_hop if is_usual else lambda item, value: None

    def deliver(self, node: SinkNode, value: Any) -> None:
        sink = node.sink
        if not isinstance(sink, QueueSink):
            self.made += deliveries(node, self.item, value, len(self.made))
            return
        payload = None if sink.encode is None else sink.encode(value)
        if payload is None and sink.encode is not None:
            return
        key = self.item.key if node.extract is None else extracted_key(node.extract, value)
        message_id = self.next_id()
        queue, template = self.writer.to_sink(sink)
        if payload is None:
            dump = self.calling.pickling.dump_value
            body = dump_value(ANY_VALUE, value, lambda: dump(sink.task, unescape(message_id), value))
        else:
            body = b"[[" + payload + b"],{},{}]"
        keyed = key if sink.has_process else None
        self.made.append(Push(queue, self.cause.fill(template, message_id, body, keyed)))


def deliveries(node: SinkNode, item: Work, value: Any, number: int) -> list[Emission]:
    """What a message sends to a list or a stream: one output, or none. `number`: how many outputs of the message come before it."""
    sink = cast("ListSink | StreamSink", node.sink)
    payload = sink.encode(value)
    if payload is None:
        return []
    key = item.key if node.extract is None else extracted_key(node.extract, value)
    return [Delivery(sink, f"{item.envelope.headers.id}:{number}", key, payload)]


def _key_of(node: HopNode, value: Any) -> str:
    try:
        key = node.extract(value)
    except (Exception, SystemExit):  # `extracted_key` raises an error that says what is wrong
        return extracted_key(node.extract, value)
    return key if type(key) is str and len(key) < SHORT_KEY else extracted_key(lambda _: key, value)


def seconds_of(value: Any) -> float:
    """The result of `event_time=` in seconds since the epoch. It may be a number or a datetime (UTC if it has no zone). Raises `TypeError`
    for another type, and `ValueError` for a number out of range."""
    if isinstance(value, datetime):
        return (value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp()
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not -MAX_SECONDS <= value <= MAX_SECONDS:
            raise ValueError(f"event_time must return seconds since the epoch, not {value!r:.40}")
        return float(value)
    raise TypeError(f"event_time must return seconds since the epoch or a datetime, not {type(value).__name__}")


def seconds_given(value: object) -> float | None:
    """A time from a header. None if it is not a valid time."""
    try:
        return None if isinstance(value, datetime) else seconds_of(value)
    except (TypeError, ValueError):
        return None
