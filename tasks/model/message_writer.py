"""Writes Celery messages: those of `send_many`, and those of a step's outputs."""

from __future__ import annotations

import base64
from binascii import b2a_base64
from collections.abc import Callable, Mapping
from types import MappingProxyType

import msgspec

from celery_partitions.model.keys import key_bytes
from celery_partitions.model.messages import MAX_BYTES
from celery_partitions.model.sinks import QueueSink
from celery_partitions.model.topology import Topology

#: The body of a timer's message, which a stage sends to itself.
TIMER_BODY = b'[[{"__timer__":true}],{},{}]'


_encode = msgspec.json.Encoder().encode


def json_text(value: object) -> bytes:
    """A value as JSON."""
    return _encode(value)


def escape(text: str) -> bytes:
    """A text escaped for JSON, without the quotes."""
    return json_text(text)[1:-1]


#: The header of a message that no other message caused, with the comma before it.
NO_PARENT = b',"parent_id":null'


class MessageTemplate:
    """The constant parts of protocol 2 messages for one queue, named as in Celery.

    `headers`: the constant ones. `properties`: further constant properties, besides those that Celery and kombu need.
    """

    def __init__(self, queue: str, headers: Mapping[str, object], properties: Mapping[str, object] = MappingProxyType({})) -> None:
        self.headers = (
            b'","content-encoding":"utf-8","content-type":"application/json","headers":'
            + json_text(headers)[:-1]
            + b',"sent_at":'
        )
        needed = {
            "delivery_mode": 2,
            "delivery_info": {"exchange": "", "routing_key": queue},
            "priority": 0,
            "body_encoding": "base64",
        }
        self.properties = json_text({**properties, **needed})[1:-1] + b',"delivery_tag":"'

    @classmethod
    def small(cls, task: str, queue: str, origin: str, ignore_result: bool = True) -> MessageTemplate:
        """Without the optional headers that would be null. That makes a message smaller (798 → 614 bytes in the README's example).
        `origin`: the sender's name, for people."""
        headers = {"lang": "py", "task": task, "group": None, "origin": origin, "ignore_result": ignore_result}
        return cls(queue, headers)

    def fill(
        self, name: bytes, sent_at: bytes, body: bytes, more: bytes = NO_PARENT, root: bytes | None = None, properties: bytes = b""
    ) -> bytes:
        """A raw message. `name`: its id and delivery tag; `root`: the id of the first message of its chain, both escaped for JSON.
        `more`: further headers, each preceded by a comma; `properties`: further properties, each followed by one."""
        return b"".join(
            (
                b'{"body":"',
                b2a_base64(body, newline=False),
                self.headers,
                sent_at,
                more,
                b',"id":"',
                name,
                b'","root_id":"',
                name if root is None else root,
                b'"},"properties":{"correlation_id":"',
                name,
                b'",',
                properties,
                self.properties,
                name,
                b'"}}',
            )
        )


class Way:
    """How messages go to a stage with one key: the partition, and the template there."""

    __slots__ = ("_after_parent", "partition", "template")

    def __init__(self, partition: int, template: MessageTemplate, key: str) -> None:
        self.partition, self.template = partition, template
        self._after_parent = b'","partition_key":' + escape_header(key) + b',"id":"'

    def first_output(self, name: bytes, sent_at: bytes, body: bytes, root: bytes) -> bytes:
        """What `Cause.fill` makes for the first output of the message `name`, in one step. Values are escaped for JSON."""
        template = self.template
        return b"".join(
            (
                b'{"body":"',
                b2a_base64(body, newline=False),
                template.headers,
                sent_at,
                b',"parent_id":"',
                name,
                self._after_parent,
                name,
                b':0","root_id":"',
                root,
                b'"},"properties":{"correlation_id":"',
                name,
                b':0",',
                template.properties,
                name,
                b':0"}}',
            )
        )


class Cause:
    """What an output's message inherits from the message that caused it.

    An output's id is its cause's id and a number. So the same message always produces the same ids, also when it runs again.
    """

    __slots__ = ("_id", "_more", "_root", "_sent_at")

    def __init__(self, message_id: str, root_id: object, sent_at: object, event_time: float | None) -> None:
        self._id = _encode(message_id)[1:-1]
        self._root = self._id if root_id == message_id or not isinstance(root_id, str) else escape(root_id)
        self._sent_at = _encode(sent_at) if isinstance(sent_at, int | float) else b"null"
        self._more = b',"parent_id":"' + self._id + b'"'
        if event_time is not None:
            self._more += b',"event_time":' + json_text(event_time)

    def add_headers(self, headers: bytes) -> None:
        """Add headers to all outputs, each preceded by a comma."""
        self._more += headers

    def id_of(self, number: int) -> bytes:
        """The id of an output, escaped for JSON."""
        return b"%b:%d" % (self._id, number)

    def id_of_next_timer(self) -> bytes:
        """The id of the next timer that a firing timer sets, escaped for JSON.

        It replaces the number instead of adding one: a chain of timers can be endless, and the id must not grow with it.
        """
        first, _, number = self._id.rpartition(b"~")
        return b"%b~%d" % (first, int(number) + 1) if first and number.isdigit() else self._id + b"~1"

    def fill(
        self, template: MessageTemplate, message_id: bytes, body: bytes, key: str | None, timer: float | None = None
    ) -> bytes:
        """The message of an output. `timer`: when a stage's message to itself is due."""
        more = self._more
        if key is not None:
            try:
                more += b',"partition_key":' + _encode(key)
            except UnicodeEncodeError:
                more += b',"partition_key":' + escape_header(key)
        if timer is not None:
            more += b',"timer":' + json_text(timer)
        return template.fill(message_id, self._sent_at, body, more, self._root)


def unescape(text: bytes) -> str:
    """The text for its JSON-escaped form without quotes; the inverse of `escape`."""
    return str(msgspec.json.decode(b'"' + text + b'"'))


def escape_header(key: str) -> bytes:
    """A key as the value of the header `partition_key`: text, or `{"base64": …}` for bytes that are not UTF-8."""
    try:
        return json_text(key)
    except UnicodeEncodeError:
        return json_text({"base64": base64.b64encode(key_bytes(key)).decode()})


#: Keys whose way is cached, for each stage: about 30 MB.
MAX_WAYS = 100_000

MakeCause = Callable[[str, object, object, float | None], Cause]


class MessageWriter:
    """Makes the messages of a worker's outputs. Caches a template per stage and partition, and per sink.

    Queues have their names in Celery. `topology`: returns the group's, which a resize changes. `max_bytes`: the longest message that workers decode (PARTITIONS_MESSAGE_BYTES). `queue_of`: a
    partition's queue. `queue_of_task`: the queue to which the app's routes send a plain task. `queue_of_sink`: the queue of a sink's own
    group. `make_cause`: makes the `Cause` of a message's outputs.
    """

    def __init__(
        self,
        *,
        topology: Callable[[], Topology],
        queue_of: Callable[[int], str],
        queue_of_task: Callable[[str], str],
        queue_of_sink: Callable[[str], str],
        origin: str,
        max_bytes: int = MAX_BYTES,
        make_cause: MakeCause = Cause,
    ) -> None:
        self.max_bytes, self.make_cause = max_bytes, make_cause
        self._topology, self.queue_of, self.origin = topology, queue_of, origin
        self.queue_of_task, self.queue_of_sink = queue_of_task, queue_of_sink
        self._hops: dict[tuple[str, int], MessageTemplate] = {}
        #: For a topology, by stage: see `ways_to`. One value, because threads share it.
        self._ways: tuple[Topology | None, dict[str, dict[str, Way]]] = None, {}
        self._sinks: dict[QueueSink, tuple[str, MessageTemplate]] = {}

    @property
    def topology(self) -> Topology:
        """The group's topology now."""
        return self._topology()

    def to_stage(self, stage: str, partition: int) -> MessageTemplate:
        """The template of messages to a stage in a partition."""
        found = self._hops.get((stage, partition))
        if found is None:
            found = self._hops[stage, partition] = MessageTemplate.small(stage, self.queue_of(partition), self.origin)
        return found

    def way_to(self, stage: str, key: str) -> Way:
        """What `ways_to` has for a key."""
        ways = self.ways_to(stage)
        found = ways.get(key)
        if found is None:
            partition = self._topology().partition_of(key)
            found = ways[key] = Way(partition, self.to_stage(stage, partition), key)
        return found

    def ways_to(self, stage: str) -> dict[str, Way]:
        """A cache for messages to a stage, by key. For the topology now."""
        topology = self._topology()
        known, by_stage = self._ways
        if known is not topology:
            by_stage = {}
            self._ways = topology, by_stage
        ways = by_stage.get(stage)
        if ways is None or len(ways) > MAX_WAYS:
            ways = by_stage[stage] = {}
        return ways

    def to_sink(self, sink: QueueSink) -> tuple[str, MessageTemplate]:
        """The queue and the template of messages to a sink."""
        found = self._sinks.get(sink)
        if found is None:
            queue = self.queue_of_sink(sink.name) if sink.has_process else sink.queue or self.queue_of_task(sink.task)
            found = self._sinks[sink] = queue, MessageTemplate.small(sink.task, queue, self.origin)
        return found
