"""Reading a batch: raw messages in, one small value for each out, saying what is to become of it.

Pure: the time, the revoked ids and the names of other tasks are given. Nothing here raises for bad input; a message
that can't be taken becomes a `DeadLetterItem`.
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
from celery_partitions.model.keys import SHORT_KEY, key_text, normalize_key, partition_of_normalized
from celery_partitions.model.messages import (
    MAX_BYTES,
    NOT_USUAL,
    Envelope,
    Headers,
    moment,
    name_of,
    open_slowly,
    open_usual,
)
from celery_partitions.model.reply_request import FOLLOW_UP, is_reply_request
from celery_partitions.model.values import TIMER, load_value


class Work(msgspec.Struct, gc=False):
    """A message of a computation, in its own partition."""

    raw: bytes
    computation: Computation
    key: str
    message: Any
    envelope: Envelope


class ReplyRequest(Work, gc=False):
    """Work whose message asks for its result, or names what follows it."""

    #: The returned value as JSON (kombu's), as it was when it was returned.
    value: str = "null"
    #: Headers of what follows, each with a comma before it: the trace that its call belongs to.
    trace_headers: bytes = b""


class Misrouted(msgspec.Struct, gc=False):
    """A message of a computation whose key belongs to another partition: forwarded there."""

    raw: bytes
    partition: int


class Delayed(msgspec.Struct, gc=False):
    """A message with an `eta` in the future."""

    raw: bytes
    due: float


class Skipped(msgspec.Struct, gc=False):
    """A message that must not run any more."""

    raw: bytes
    headers: Headers
    why: Literal["revoked", "expired", "duplicate"]


class PlainTask(msgspec.Struct, gc=False):
    """A message of a Celery task that is no computation; Celery's own tracer runs it, in its turn."""

    raw: bytes
    headers: Headers


class DeadLetterItem(msgspec.Struct, gc=False):
    """A message that can't be taken: a dead letter, with the reason."""

    raw: bytes
    reason: str
    error: str
    trace: str = ""
    task: str | None = None
    message_id: str | None = None
    key: str | None = None


Item = Work | Misrouted | Delayed | Skipped | PlainTask | DeadLetterItem


#: From the computation, the message's id and the signed bytes to a value. Raises `StateError`.
LoadValue = Callable[[Computation, str, bytes], Any]


def no_values(computation: Computation, message_id: str, signed: bytes) -> Any:
    """Where there is no key to check a signature with."""
    raise StateError("no signature can be checked here")


#: Python objects take about so many times the bytes of their JSON: numbers and short texts; the worst (`[[],[],…`) takes 25 times.
MEMORY_PER_BYTE = 8
#: About what one element of JSON takes in memory, beside its text.
MEMORY_PER_ELEMENT = 64
#: A message with fewer bytes is not looked at: of such ones the bytes in the queue are bound enough.
LARGE_BYTES = 1_000

#: Keys whose partition is remembered between batches, for a partition: about 10 MB.
MAX_PLACES = 100_000


class Reading(msgspec.Struct, frozen=True):
    """What decides how a partition's messages are read.

    `partition` is None for the ingress, where every message of a computation is a `Misrouted`.
    """

    computations: Mapping[str, Computation]
    plain_task: Container[str]
    partition: int | None
    partitions: int
    #: A longer message is not decoded (PARTITIONS_MESSAGE_BYTES).
    max_bytes: int = MAX_BYTES
    #: Reading stops before the messages, decompressed and decoded, take more than `MEMORY_PER_BYTE` times so many bytes
    #: (PARTITIONS_BATCH_BYTES). One message is always read.
    batch_bytes: int = sys.maxsize
    #: Opens the signed pickles of messages between stages.
    load_value: LoadValue = no_values
    #: The partitions of keys met before; saves the checksum. Bounded by `read_batch`.
    places: dict[str, int] = msgspec.field(default_factory=dict)


def condemned(item: Item, error: str, reason: str = "kills-the-worker") -> DeadLetterItem:
    """The dead letter of a message that must not run any more: it ended the workers that tried it, say."""
    key = item.key if isinstance(item, Work) else None
    task, message_id = name_of(item.raw)
    return DeadLetterItem(item.raw, reason, error, "", task, message_id, key)


def read_batch(raws: Sequence[bytes], reading: Reading, *, now: float, revoked: Container[str]) -> list[Item]:
    """One item for each raw message, in order; fewer, of the first ones, when all together would take too much memory.

    Called for each batch, so the usual message takes the shortest way. `now`: seconds since the epoch by the server's clock.
    """
    computations, partition, partitions = reading.computations, reading.partition, reading.partitions
    any_revoked, max_bytes = bool(revoked), reading.max_bytes
    room = reading.batch_bytes * MEMORY_PER_BYTE
    places = reading.places
    if len(places) > MAX_PLACES:
        places.clear()
    items: list[Item] = []
    append = items.append
    for raw in raws:
        if len(raw) > max_bytes:
            append(DeadLetterItem(raw, "too-large", f"a message of {len(raw)} bytes; at most {max_bytes} are decoded (PARTITIONS_MESSAGE_BYTES)"))
            continue
        try:
            is_large = len(raw) > LARGE_BYTES
            try:
                envelope = open_usual(raw)
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
            if computation.takes_values:
                append(_of_stage(raw, computation, envelope, reading))
                continue
            codec, body = computation.codec, envelope.body
            if codec.decode_usual is None or b'"__type__"' in body:
                message = codec.decode(body)
            else:
                try:
                    message = codec.decode_usual(body).args[0]
                except Exception:  # `decode` says what is wrong
                    message = codec.decode(body)
            try:
                key = computation.extract(message)
            except (Exception, SystemExit):  # `key_of` says what is wrong
                key = computation.key_of(message)
            if type(key) is not str or len(key) >= SHORT_KEY:
                key = normalize_key(key)
            where = places.get(key)
            if where is None:
                where = places[key] = partition_of_normalized(key, partitions)
            if where != partition:
                append(Misrouted(raw, where))
                continue
            # 123 is `{` of `{}]`, the end of a body that names nothing that follows.
            if (body[-3] != 123 or computation.replies or headers.ignore_result is False) and is_reply_request(
                computation, headers, body
            ):
                append(ReplyRequest(raw, computation, key, message, envelope))
            else:
                append(Work(raw, computation, key, message, envelope))
        except MessageError as error:
            append(_dead_letter_item(raw, error))
        except (Exception, SystemExit) as error:  # nothing that a message does may stop its queue
            append(_dead_letter_item(raw, _unforeseen(error)))
    return items


def memory_of(body: bytes) -> int:
    """About how many bytes a body of JSON takes as Python objects."""
    return len(body) + MEMORY_PER_ELEMENT * (body.count(b",") + body.count(b"[") + body.count(b"{"))


def decoded(computation: Computation, envelope: Envelope, open_value: LoadValue) -> Any:
    """The message of an envelope, made anew. Raises `MessageError`."""
    if not computation.takes_values:
        return computation.codec.decode(envelope.body)
    message_id = envelope.headers.id
    value = load_value(computation.codec, envelope.body, lambda signed: open_value(computation, message_id, signed))
    if value is TIMER and computation.windows is None:
        raise MessageError(f"a timer, and {computation.name!r} sets none", reason="wrong-arguments")
    return value


def key_in_header(computation: Computation, value: object) -> str:
    """The key of a message to a stage, from the header that the stage before it wrote. Raises `KeyExtractionError`."""
    if isinstance(value, str):
        return normalize_key(value)
    if isinstance(value, dict) and isinstance(value.get("base64"), str):
        try:
            raw = binascii.a2b_base64(value["base64"], strict_mode=True)
        except ValueError as error:  # binascii's own, and that of text beyond ASCII
            raise KeyExtractionError(f"the key in the header partition_key is not base64: {error}") from None
        return normalize_key(key_text(raw))
    raise KeyExtractionError(
        f"{computation.name!r} is a stage of {computation.scope}: it gets its messages, with their keys, from the stage before it. "
        "Send to the pipeline's source"
    )


def _of_stage(raw: bytes, computation: Computation, envelope: Envelope, reading: Reading) -> Work | Misrouted:
    """A message that a stage, or the process of a source, has written."""
    if computation.role == "stage":
        key = key_in_header(computation, envelope.headers.partition_key)
        where = partition_of_normalized(key, reading.partitions)
        if where != reading.partition:
            return Misrouted(raw, where)
        return Work(raw, computation, key, decoded(computation, envelope, reading.load_value), envelope)
    message = decoded(computation, envelope, reading.load_value)
    key = computation.key_of(message)
    where = partition_of_normalized(key, reading.partitions)
    return Work(raw, computation, key, message, envelope) if where == reading.partition else Misrouted(raw, where)


def _not_now(
    raw: bytes, headers: Headers, now: float, revoked: Container[str], partition: int | None
) -> Skipped | Delayed | None:
    """A message that is revoked, has expired, or is not due yet. The ingress forwards before it delays."""
    if headers.id in revoked:
        return Skipped(raw, headers, "revoked")
    expires = moment(headers.expires)
    if expires is not None and expires < now:
        return Skipped(raw, headers, "expired")
    due = moment(headers.eta) if partition is not None else None
    return Delayed(raw, due) if due is not None and due > now else None


def _plain_task(raw: bytes, headers: Headers, reading: Reading) -> PlainTask:
    if headers.task == FOLLOW_UP or headers.task in reading.plain_task:
        return PlainTask(raw, headers)
    raise MessageError(f"no task named {headers.task!r} is registered here", reason="unknown-task")


def _unforeseen(error: BaseException) -> MessageError:
    wrapped = MessageError(f"reading it raised {describe(error)}", reason="unforeseen")
    wrapped.__cause__ = error
    return wrapped


def _dead_letter_item(raw: bytes, error: MessageError) -> DeadLetterItem:
    """The dead letter of a message, with as much of its identity as can be had."""
    task, message_id = name_of(raw)
    cause = error.__cause__
    trace = trace_of(cause) if cause is not None else ""
    return DeadLetterItem(raw, error.reason, shortened(encodable(str(error))), trace, task, message_id)
