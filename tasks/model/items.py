"""Reads a batch: turns each raw message into an item that says what to do with it.

Pure: the time, the revoked ids and the names of other tasks are passed in. Bad input never raises; an invalid message becomes a
`DeadLetterItem`.
"""

from __future__ import annotations

import binascii
import sys
from collections.abc import Callable, Container, Mapping, Sequence
from typing import Any, Literal

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import (
    KeyExtractionError,
    MessageError,
    StateError,
    describe,
    encodable,
    shortened,
    trace_of,
)
from celery_partitions.model.keys import SHORT_KEY, key_text, normalize_key
from celery_partitions.model.messages import (
    MAX_BYTES,
    NOT_USUAL,
    Envelope,
    Headers,
    moment,
    name_of,
    open_slowly,
    open_usual,
    open_with_origin,
)
from celery_partitions.model.reply_request import FOLLOW_UP, is_reply_request, refuse_follow_ups
from celery_partitions.model.revocations import is_revoked
from celery_partitions.model.task_lines import line_of_task
from celery_partitions.model.topology import Topology
from celery_partitions.model.values import TIMER, load_value


class Work(msgspec.Struct, gc=False):
    """A message to a computation, in the right partition."""

    raw: bytes
    computation: Computation
    key: str
    message: Any
    envelope: Envelope


class ReplyRequest(Work, gc=False):
    """Work whose message requests its result, or names follow-ups."""

    #: The returned value as kombu's JSON, encoded immediately after the call.
    value: str = "null"
    #: Trace headers for the follow-ups, each preceded by a comma.
    trace_headers: bytes = b""


class Misrouted(msgspec.Struct, gc=False):
    """A message to a computation whose key belongs to another partition. It is forwarded there."""

    raw: bytes
    partition: int
    #: Its key was here until the resize that is in progress. Younger messages may wait for it in the queue of its partition.
    was_here: bool = False


class Delayed(msgspec.Struct, gc=False):
    """A message with an `eta` in the future."""

    raw: bytes
    due: float


class Skipped(msgspec.Struct, gc=False):
    """A message that must not run."""

    raw: bytes
    headers: Headers
    why: Literal["revoked", "expired", "duplicate"]


class PlainTask(msgspec.Struct, gc=False):
    """A message of an ordinary Celery task. Celery's own tracer runs it, in queue order."""

    raw: bytes
    headers: Headers


class UnknownTask(msgspec.Struct, gc=False):
    """A message that waits because its task is unknown here, or was until now."""

    raw: bytes
    #: Where it waits: in the mailbox of its key, if the message shows it, else in its task's line (`task_lines`).
    line: str
    error: str
    task: str | None
    message_id: str | None
    key: str | None = None


class Apart(msgspec.Struct, gc=False):
    """A message that the step leaves alone, because its call runs outside the loop, or it waits behind such a call."""

    raw: bytes


class DeadLetterItem(msgspec.Struct, gc=False):
    """A message that becomes a dead letter, with the reason."""

    raw: bytes
    reason: str
    error: str
    trace: str = ""
    task: str | None = None
    message_id: str | None = None
    key: str | None = None


Item = Work | Misrouted | Delayed | Skipped | PlainTask | UnknownTask | DeadLetterItem | Apart


#: Unpickles a value, given the computation, the message's id and the signed bytes. Raises `StateError`.
LoadValue = Callable[[Computation, str, bytes], Any]


def no_values(computation: Computation, message_id: str, signed: bytes) -> Any:
    """A `LoadValue` for code without a signing key. Always raises `StateError`."""
    raise StateError("this process can't verify signatures")


#: Numbers and short texts take about this many times more memory as Python objects than as JSON. The worst case (`[[],[],…`) is 25.
MEMORY_PER_BYTE = 8
#: Bytes of memory per JSON element, approximately, besides its text.
MEMORY_PER_ELEMENT = 64
#: The memory of smaller messages is not estimated. The limit on bytes from the queue is enough for them.
LARGE_BYTES = 1_000

#: Keys whose partition number is cached, in one worker: about 10 MB.
MAX_PLACES = 100_000


class Reading(msgspec.Struct, frozen=True):
    """How to read a partition's messages.

    `partition` is None for the ingress, where every message to a computation is `Misrouted`.
    """

    computations: Mapping[str, Computation]
    plain_task: Container[str]
    partition: int | None
    topology: Topology
    #: A longer message is not decoded (PARTITIONS_MESSAGE_BYTES).
    max_bytes: int = MAX_BYTES
    #: Reading stops before the decoded messages take more memory than `MEMORY_PER_BYTE` times this (PARTITIONS_BATCH_BYTES). At least one
    #: message is read.
    batch_bytes: int = sys.maxsize
    #: Unpickles the signed values in messages between stages.
    load_value: LoadValue = no_values
    #: Whether messages of unknown tasks wait, instead of becoming dead letters.
    unknown_waits: bool = False
    #: A cache: key → partition number, which all partitions of a worker share. `read_batch` bounds it.
    places: dict[str, int] = msgspec.field(default_factory=dict)
    #: Whether most messages have outputs, which inherit from their headers.
    has_pipelines: bool = False

    @property
    def place(self) -> str:
        """The partition, as in the names of lines."""
        return "ingress" if self.partition is None else str(self.partition)


def condemned(item: Item, error: str, reason: str = "kills-the-worker") -> DeadLetterItem:
    """The dead letter for a message that must not run again, for example because it killed workers."""
    key = item.key if isinstance(item, Work) else None
    task, message_id = name_of(item.raw)
    return DeadLetterItem(item.raw, reason, error, "", task, message_id, key)


def read_batch(raws: Sequence[bytes], reading: Reading, *, now: float, revoked: Container[str]) -> list[Item]:
    """One item per raw message, in order. If all would take too much memory, only the items of the first messages.

    Called for each batch, so it is fast for messages of the usual form. `now`: the server's time, in seconds since the epoch.
    """
    computations, partition, topology = reading.computations, reading.partition, reading.topology
    any_revoked, max_bytes = bool(revoked), reading.max_bytes
    room = reading.batch_bytes * MEMORY_PER_BYTE
    open_message = open_with_origin if reading.has_pipelines else open_usual
    places = reading.places
    if len(places) > MAX_PLACES:
        places.clear()
    items: list[Item] = []
    append, place_of = items.append, places.get
    for raw in raws:
        if len(raw) > max_bytes:
            append(DeadLetterItem(raw, "too-large", f"the message has {len(raw)} bytes; workers decode at most {max_bytes} bytes (PARTITIONS_MESSAGE_BYTES)"))
            continue
        try:
            is_large = len(raw) > LARGE_BYTES
            try:
                envelope = open_message(raw)
            except NOT_USUAL:
                envelope = open_slowly(raw, max_bytes)
                is_large = True  # it may be compressed
            if is_large:
                room -= memory_of(envelope.body)
                if room < 0 and items:
                    break
            headers = envelope.headers
            if headers.expires is not None or headers.eta is not None or any_revoked:
                other = _not_now(raw, headers, now, revoked, partition)
                if other is not None:
                    append(other)
                    continue
            computation = computations.get(headers.task)
            if computation is None:
                append(_plain_task(raw, headers, reading))
                continue
            codec, body = computation.codec, envelope.body
            decode = codec.decode_usual
            if computation.takes_values:
                key = headers.partition_key
                where = place_of(key) if type(key) is str else None
                # `find` takes half as long as `in`.
                if where is not None and where == partition and computation.role == "stage" and decode is not None and body.find(b'"__') < 0:
                    try:
                        message = decode(body).args[0]
                    except Exception:  # `_of_stage` raises an error that says what is wrong
                        append(_of_stage(raw, computation, envelope, reading))
                    else:
                        append(Work(raw, computation, key, message, envelope))
                else:
                    append(_of_stage(raw, computation, envelope, reading))
                continue
            if decode is None or body.find(b'"__type__"') >= 0:
                message = codec.decode(body)
            else:
                try:
                    message = decode(body).args[0]
                except Exception:  # `decode` raises an error that says what is wrong
                    message = codec.decode(body)
            try:
                key = computation.extract(message)
            except (Exception, SystemExit):  # `key_of` raises an error that says what is wrong
                key = computation.key_of(message)
            if type(key) is not str or len(key) >= SHORT_KEY:
                key = normalize_key(key)
            where = place_of(key)
            if where is None:
                where = places[key] = topology.partition_of(key)
            if where != partition:
                append(_misrouted(raw, key, where, reading))
                continue
            # 123 is `{` in `{}]`, the end of a body without follow-ups.
            if (body[-3] != 123 or computation.replies or headers.ignore_result is False) and is_reply_request(
                computation, headers, body
            ):
                if not computation.follow_ups:
                    refuse_follow_ups(computation, body)
                append(ReplyRequest(raw, computation, key, message, envelope))
            else:
                append(Work(raw, computation, key, message, envelope))
        except MessageError as error:
            append(_dead_letter_item(raw, error))
        except (Exception, SystemExit) as error:  # no message may stop its queue
            append(_dead_letter_item(raw, _unforeseen(error)))
    return items


def memory_of(body: bytes) -> int:
    """An estimate of the memory that a JSON body takes as Python objects, in bytes."""
    return len(body) + MEMORY_PER_ELEMENT * (body.count(b",") + body.count(b"[") + body.count(b"{"))


def decoded(computation: Computation, envelope: Envelope, open_value: LoadValue) -> Any:
    """Decode the message in an envelope. Raises `MessageError` if it is invalid."""
    if computation.role == "timer":
        return None  # the record says what fires
    if not computation.takes_values:
        return computation.codec.decode(envelope.body)
    message_id = envelope.headers.id
    value = load_value(computation.codec, envelope.body, lambda signed: open_value(computation, message_id, signed))
    if value is TIMER and computation.windows is None:
        raise MessageError(f"the message is a timer, but {computation.name!r} sets no timers", reason="wrong-arguments")
    return value


def key_in_header(task: str, value: object, pipeline: str = "a pipeline") -> str:
    """The key of a message to a stage, from the header that the previous stage wrote. Raises `KeyExtractionError`."""
    if isinstance(value, str):
        return normalize_key(value)
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        try:
            raw = binascii.a2b_base64(value["base64"], strict_mode=True)
        except ValueError as error:  # from binascii, or for text that is not ASCII
            raise KeyExtractionError(f"the key in the header partition_key is not base64: {error}") from None
        return normalize_key(key_text(raw))
    raise KeyExtractionError(
        f"{task!r} is a stage of {pipeline}: it receives messages, with their keys, only from the previous stage. "
        "Send to the pipeline's source"
    )


def _misrouted(raw: bytes, key: str, where: int, reading: Reading) -> Misrouted:
    topology = reading.topology
    if topology.former is None:
        return Misrouted(raw, where)
    former = topology.before.partition_of(key)
    if former == reading.partition:
        return Misrouted(raw, where, was_here=True)
    return Misrouted(raw, former if topology.is_moving else where)  # as it would be sent


def _of_stage(raw: bytes, computation: Computation, envelope: Envelope, reading: Reading) -> Work | Misrouted:
    """The item for a message that a stage or a source's process has written."""
    role = computation.role
    if role == "stage" or role == "timer":
        key, message = envelope.headers.partition_key, None
        if type(key) is not str or len(key) >= SHORT_KEY:
            key = key_in_header(computation.name, key, computation.scope)
    else:
        message = decoded(computation, envelope, reading.load_value)
        key = computation.key_of(message)
    where = reading.places.get(key)
    if where is None:
        where = reading.places[key] = reading.topology.partition_of(key)
    if where != reading.partition:
        return _misrouted(raw, key, where, reading)
    if role == "stage":
        decode, body = computation.codec.decode_usual, envelope.body
        if decode is None or b'"__' in body:
            message = decoded(computation, envelope, reading.load_value)
        else:
            try:
                message = decode(body).args[0]
            except Exception:  # `decoded` raises an error that says what is wrong
                message = decoded(computation, envelope, reading.load_value)
    return Work(raw, computation, key, message, envelope)


def _not_now(
    raw: bytes, headers: Headers, now: float, revoked: Container[str], partition: int | None
) -> Skipped | Delayed | None:
    """The item for a message that is revoked, expired or not yet due; otherwise None. The ingress does not delay: it forwards first."""
    if is_revoked(raw, headers.id, revoked):
        return Skipped(raw, headers, "revoked")
    expires = moment(headers.expires)
    if expires is not None and expires < now:
        return Skipped(raw, headers, "expired")
    due = moment(headers.eta) if partition is not None else None
    return Delayed(raw, due) if due is not None and due > now else None


def skipped_now(item: Work, now: float, revoked: Container[str]) -> Skipped | None:
    """For a message that has waited since it was read: the item if it is revoked or expired by now."""
    headers = item.envelope.headers
    if not revoked and headers.expires is None:
        return None
    found = _not_now(item.raw, headers, now, revoked, None)
    return found if isinstance(found, Skipped) else None


def _plain_task(raw: bytes, headers: Headers, reading: Reading) -> PlainTask | UnknownTask | Misrouted:
    if headers.task == FOLLOW_UP or headers.task in reading.plain_task:
        return PlainTask(raw, headers)
    error = f"this worker has no task named {headers.task!r}. Import the module that declares it, or correct the name"
    if reading.unknown_waits:
        key = _key_shown(headers)
        if key is not None:
            where = reading.topology.partition_of(key)
            if where != reading.partition:
                return _misrouted(raw, key, where, reading)
            return UnknownTask(raw, key, shortened(encodable(error)), *name_of(raw), key)
        return UnknownTask(raw, line_of_task(headers.task, reading.place), shortened(encodable(error)), *name_of(raw))
    raise MessageError(error, reason="unknown-task")


def _key_shown(headers: Headers) -> str | None:
    """The key of a message that a stage has written; None for any other, or if it is no key."""
    if headers.partition_key is None:
        return None
    try:
        return key_in_header(headers.task, headers.partition_key)
    except MessageError:
        return None


def _unforeseen(error: BaseException) -> MessageError:
    wrapped = MessageError(f"reading the message raised {describe(error)}", reason="unforeseen")
    wrapped.__cause__ = error
    return wrapped


def _dead_letter_item(raw: bytes, error: MessageError) -> DeadLetterItem:
    """The dead letter for an invalid message, with task and id as far as they can be read."""
    task, message_id = name_of(raw)
    cause = error.__cause__
    trace = trace_of(cause) if cause is not None else ""
    return DeadLetterItem(raw, error.reason, shortened(encodable(str(error))), trace, task, message_id)
