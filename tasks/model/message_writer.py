"""Celery messages as this product writes them: those of `send_many`, and those that a step's outputs become."""

from __future__ import annotations

import base64
from collections.abc import Callable

import msgspec

from celery_partitions.model.keys import key_bytes, partition_of_normalized
from celery_partitions.model.messages import MAX_BYTES
from celery_partitions.model.sinks import QueueSink

#: A timer's argument: the stage itself has sent it.
TIMER_BODY = b'[[{"__timer__":true}],{},{}]'


def json_text(value: object) -> bytes:
    """A value as JSON."""
    return msgspec.json.encode(value)


def escape(text: str) -> bytes:
    """A text as it stands between the quotes of JSON."""
    return json_text(text)[1:-1]


class MessageTemplate:
    """The parts of a protocol 2 message that are the same for one task and queue.

    The headers and properties that Celery and kombu need; of the optional ones none that would be null, which makes the
    message smaller (798 → 614 bytes in the README's example). `origin`: who sends, for people to read.
    """

    def __init__(self, task: str, queue: str, origin: str, ignore_result: bool = True) -> None:
        self._body = b'{"body":"'
        self._id = (
            b'","content-encoding":"utf-8","content-type":"application/json","headers":{"lang":"py","task":'
            + json_text(task)
            + b',"group":null,"origin":'
            + json_text(origin)
            + b',"ignore_result":'
            + json_text(ignore_result)
            + b',"sent_at":'
        )
        self._tail = (
            b'"delivery_mode":2,"delivery_info":{"exchange":"","routing_key":'
            + json_text(queue)
            + b'},"priority":0,"body_encoding":"base64","delivery_tag":"'
        )

    def fill(
        self, name: bytes, sent_at: bytes, body: bytes, more: bytes = b',"parent_id":null', root: bytes | None = None
    ) -> bytes:
        """A raw message; `name`: its id and delivery tag, and `root`: that of the first of its chain, as they stand between
        the quotes of JSON; `more`: further headers, each with a comma before it."""
        return b"".join(
            (
                self._body,
                base64.b64encode(body),
                self._id,
                sent_at,
                more,
                b',"id":"',
                name,
                b'","root_id":"',
                name if root is None else root,
                b'"},"properties":{"correlation_id":"',
                name,
                b'",',
                self._tail,
                name,
                b'"}}',
            )
        )


class Cause:
    """The message that an output comes from, as far as the output's message tells of it.

    An output's id is its cause's, and its number: the same message makes the same ids, whenever it is run.
    """

    __slots__ = ("_id", "_more", "_root", "_sent_at")

    def __init__(self, message_id: str, root_id: object, sent_at: object, event_time: float | None) -> None:
        self._id = escape(message_id)
        self._root = self._id if root_id == message_id or not isinstance(root_id, str) else escape(root_id)
        self._sent_at = json_text(sent_at) if isinstance(sent_at, int | float) else b"null"
        self._more = b',"parent_id":"' + self._id + b'"'
        if event_time is not None:
            self._more += b',"event_time":' + json_text(event_time)

    def tell(self, headers: bytes) -> None:
        """Further headers of all outputs, each with a comma before it."""
        self._more += headers

    def id_of(self, number: int) -> bytes:
        """The id of an output, as it stands between the quotes of JSON."""
        return b"%b:%d" % (self._id, number)

    def id_of_next_timer(self) -> bytes:
        """The id of the timer that one which fires sets, as it stands between the quotes of JSON.

        Numbered anew: a chain of timers lasts as long as its windows, and an id made of all before it would grow without end.
        """
        first, _, number = self._id.rpartition(b"~")
        return b"%b~%d" % (first, int(number) + 1) if first and number.isdigit() else self._id + b"~1"

    def fill(
        self, template: MessageTemplate, message_id: bytes, body: bytes, key: str | None, timer: float | None = None
    ) -> bytes:
        """The message of an output; `timer`: when it is due, of a stage's message to itself."""
        more = self._more if key is None else self._more + b',"partition_key":' + escape_header(key)
        if timer is not None:
            more += b',"timer":' + json_text(timer)
        return template.fill(message_id, self._sent_at, body, more, self._root)


def unescape(text: bytes) -> str:
    """The text that stands so between the quotes of JSON."""
    return str(msgspec.json.decode(b'"' + text + b'"'))


def escape_header(key: str) -> bytes:
    """A key as the header `partition_key` has it: text, or `{"base64": …}` of bytes that are no UTF-8."""
    try:
        return json_text(key)
    except UnicodeEncodeError:
        return json_text({"base64": base64.b64encode(key_bytes(key)).decode()})


class MessageWriter:
    """Makes the messages of a worker's outputs. Templates are kept: there are as many as stages × partitions, and sinks.

    Queues are as Celery names them. `max_bytes`: of a message that a worker decodes (PARTITIONS_MESSAGE_BYTES). `queue_of`: a partition's. `queue_of_task`: where the app's routes put a plain task.
    `queue_of_sink`: that of a sink's own group.
    """

    def __init__(
        self,
        *,
        partitions: int,
        queue_of: Callable[[int], str],
        queue_of_task: Callable[[str], str],
        queue_of_sink: Callable[[str], str],
        origin: str,
        max_bytes: int = MAX_BYTES,
    ) -> None:
        self.max_bytes = max_bytes
        self.partitions, self.queue_of, self.origin = partitions, queue_of, origin
        self.queue_of_task, self.queue_of_sink = queue_of_task, queue_of_sink
        #: What the outputs of a message are made from.
        self.make_cause: Callable[[str, object, object, float | None], Cause] = Cause
        self._hops: dict[tuple[str, int], MessageTemplate] = {}
        self._sinks: dict[QueueSink, tuple[str, MessageTemplate]] = {}

    def partition_of(self, key: str) -> int:
        """The partition of a spelled key."""
        return partition_of_normalized(key, self.partitions)

    def to_stage(self, stage: str, partition: int) -> MessageTemplate:
        """The template of messages to a stage in a partition."""
        found = self._hops.get((stage, partition))
        if found is None:
            found = self._hops[stage, partition] = MessageTemplate(stage, self.queue_of(partition), self.origin)
        return found

    def to_sink(self, sink: QueueSink) -> tuple[str, MessageTemplate]:
        """The queue and the template of messages to a sink."""
        found = self._sinks.get(sink)
        if found is None:
            queue = self.queue_of_sink(sink.name) if sink.has_process else sink.queue or self.queue_of_task(sink.task)
            found = self._sinks[sink] = queue, MessageTemplate(sink.task, queue, self.origin)
        return found
