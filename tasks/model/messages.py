"""Reads Celery messages from a queue. The user's message inside is converted by `message_codec`.

Wire format (kombu's Redis transport, message protocol 2): a JSON object
`{body, content-type, content-encoding, headers, properties}`; `body` is base64 of JSON `[args, kwargs, embed]`; `headers` has
`task` and `id`. Protocol 1, which has all of that in the body, is accepted too and gives the same `Envelope`.
Source: Celery's "Message Protocol" reference and kombu 5.7's `virtual.Channel`.
"""

from __future__ import annotations

import binascii
import zlib
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from celery_partitions.model.errors import MessageError
from celery_partitions.model.pydantic_types import encode_inside
from celery_partitions.model.redaction import unquoted

#: The default limit for a message, and for its decompressed body; longer ones are not decoded. For nesting, msgspec enforces the
#: interpreter's recursion limit (1000).
MAX_BYTES = 8_000_000
#: Task and id of an invalid message are cut to this length.
MAX_NAME_CHARACTERS = 1_000
#: The end of the year 9999, the last one in ISO 8601. Larger numbers are not accepted as times.
MAX_SECONDS = 253_402_300_800
#: Accepted compressions of a body, as kombu and others name them. All are gzip or zlib.
TAKEN_COMPRESSIONS = ("application/x-gzip", "application/gzip", "gzip", "zlib")


class Headers(msgspec.Struct, gc=False):
    """The headers that decide how a message is handled. Others stay in the raw message."""

    task: str
    id: str
    eta: Any = None
    expires: Any = None
    #: False: the sender wants the result; True: it does not; None: the message does not say.
    ignore_result: Any = None
    #: The key of a message between stages.
    partition_key: Any = None
    #: Must be absent here: `open_slowly` reads compressed bodies.
    compression: None = None


class HeadersWithOrigin(Headers, gc=False):
    """The same, with what a message's outputs inherit."""

    sent_at: Any = None
    root_id: Any = None


class Details(msgspec.Struct, gc=False):
    """Headers that are seldom needed; read from the raw message on demand."""

    sent_at: Any = None
    root_id: Any = None
    parent_id: Any = None
    argsrepr: Any = None
    group: Any = None
    #: Event time of a message between stages, if its source has one; seconds since the epoch.
    event_time: Any = None
    #: When a timer is due; seconds since the epoch.
    timer: Any = None
    #: Proves that a worker of this group wrote a follow-up.
    seal: Any = None
    #: Celery's stamps: their names, and the value or values of each.
    stamped_headers: Any = None
    stamps: Any = None


class _Detailed(msgspec.Struct):
    headers: Details = msgspec.field(default_factory=Details)


class Origin(msgspec.Struct, frozen=True, gc=False):
    """The headers that a message's outputs inherit, read from the raw message on demand."""

    sent_at: Any = None
    root_id: Any = None


class _WithOrigin(msgspec.Struct, gc=False):
    headers: Origin = Origin()


class DeliveryInfo(msgspec.Struct, gc=False):
    """Where the producer sent the message. Celery's own worker crashes without it."""

    exchange: str


class Properties(msgspec.Struct, gc=False):
    """Properties that every Celery client writes for Redis. Celery's own worker drops a message without one of them."""

    delivery_tag: str
    delivery_info: DeliveryInfo


class Envelope(msgspec.Struct, gc=False, rename={"content_type": "content-type"}):
    """One message of a queue, partly decoded. `body` is the JSON `[args, kwargs, embed]`."""

    body: bytes
    headers: Headers
    properties: Properties
    content_type: Literal["application/json"] = "application/json"


class _EnvelopeWithOrigin(Envelope, gc=False, rename={"content_type": "content-type"}):
    headers: HeadersWithOrigin


#: Decodes a message of the usual form in one call of C code. Raises one of `NOT_USUAL` for any other.
open_usual = msgspec.json.Decoder(Envelope).decode
#: The same, with the headers that outputs inherit: where most messages have some, that saves a second decoding.
open_with_origin = msgspec.json.Decoder(_EnvelopeWithOrigin).decode
_open_details = msgspec.json.Decoder(_Detailed).decode
_open_origin = msgspec.json.Decoder(_WithOrigin).decode
NOT_USUAL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_anything = msgspec.json.Decoder()
encode_json = msgspec.json.Encoder(enc_hook=encode_inside).encode


def open_envelope(raw: bytes) -> Envelope:
    """Decode one raw message. Raises `MessageError` that says what is wrong with it."""
    try:
        return open_usual(raw)
    except NOT_USUAL:
        return open_slowly(raw)


def details_of(raw: bytes) -> Details:
    """The headers that are seldom needed. All are None if the message can't be decoded."""
    try:
        return _open_details(raw).headers
    except NOT_USUAL:
        return Details()


def sent_at_of(raw: bytes) -> float | None:
    """When a message was sent, in seconds since the epoch. None if it does not say."""
    sent_at = details_of(raw).sent_at
    return sent_at if isinstance(sent_at, int | float) else None


def moment_or_none(value: object) -> float | None:
    """The header `sent_at` in seconds since the epoch. None if it is not a number."""
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def origin_of(raw: bytes) -> Origin:
    """The headers that outputs inherit. All are None if the message can't be decoded."""
    try:
        return _open_origin(raw).headers
    except NOT_USUAL:
        return Origin()


def name_of(raw: bytes) -> tuple[str | None, str | None]:
    """Task and id of any raw message, to identify it. None for what is missing, and for a message longer than `MAX_BYTES`."""
    if len(raw) > MAX_BYTES:
        return None, None
    try:
        message = _anything.decode(raw)
    except NOT_USUAL:
        return None, None
    headers = message.get("headers") if isinstance(message, dict) else None
    found = headers if isinstance(headers, dict) else {}
    task, message_id = found.get("task"), found.get("id")
    return (
        task[:MAX_NAME_CHARACTERS] if isinstance(task, str) else None,
        message_id[:MAX_NAME_CHARACTERS] if isinstance(message_id, str) else None,
    )


def open_slowly(raw: bytes, max_bytes: int = MAX_BYTES) -> Envelope:
    """Decode what is not of the usual form: protocol 1, bodies without base64, compression (up to `max_bytes`). Raises `MessageError`."""
    message = decode_json(raw, "the message")
    if not isinstance(message, dict):
        raise MessageError(f"a message must be a JSON object, not {kind_of_json(message)}", reason="not-a-message")
    content_type = message.get("content-type", "application/json")
    if not _is_json(content_type):
        raise MessageError(f"the content type must be application/json, in UTF-8, not {content_type!r:.200}", reason="content-type")
    # Other languages' clients leave empty headers out, or write them as null or, in PHP, as an empty array.
    headers = message.get("headers") or {}
    properties = message.get("properties")
    if not isinstance(headers, dict) or not isinstance(properties, dict):
        raise MessageError("a message must have the objects headers and properties", reason="missing-headers")
    body = _body_bytes(message.get("body"), properties.get("body_encoding"), headers.get("compression"), max_bytes)
    if "task" not in headers:
        content = decode_json(body, "the body")
        if not isinstance(content, dict) or "task" not in content:
            raise MessageError("the message has neither headers.task (protocol 2) nor body.task (protocol 1)", reason="missing-headers")
        headers = {**content, **headers}
        body = encode_json([content.get("args") or [], content.get("kwargs") or {}, {}])
    try:
        return Envelope(
            body=body,
            headers=msgspec.convert({**headers, "compression": None}, Headers),
            properties=msgspec.convert(properties, Properties),
        )
    except msgspec.ValidationError as error:
        raise MessageError(f"invalid headers or properties: {unquoted(error)}", reason="missing-headers") from None


def _is_json(content_type: object) -> bool:
    """Whether a content type means JSON. It may name the charset: `application/json; charset=utf-8`."""
    if not isinstance(content_type, str):
        return False
    kind, _, parameters = content_type.lower().partition(";")
    charset = parameters.replace(" ", "").replace('"', "")
    return kind.strip() in ("application/json", "json") and charset in ("", "charset=utf-8", "charset=utf8", "charset=us-ascii")


def decode_json(data: bytes, what: str) -> Any:
    try:
        return _anything.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise not_json(what, error) from None


def not_json(what: str, error: Exception) -> MessageError:
    """The error for bytes that the JSON decoder refused."""
    why = "is nested too deeply" if isinstance(error, RecursionError) else f"is not JSON: {error}"
    return MessageError(f"{what} {why}", reason="not-json")


def kind_of_json(value: object) -> str:
    """What a decoded JSON value is, in the words of JSON."""
    return {dict: "an object", list: "an array", str: "a string", bool: "a boolean", type(None): "null"}.get(type(value), "a number")


def _body_bytes(body: Any, encoding: Any, compression: Any, max_bytes: int) -> bytes:
    if not isinstance(body, str):
        raise MessageError("body must be a string", reason="not-a-message")
    data = body.encode()
    if encoding == "base64":
        try:
            data = binascii.a2b_base64(data)
        except binascii.Error as error:
            raise MessageError(f"body is not base64: {error}", reason="not-a-message") from None
    if compression is None:
        return data
    if compression not in TAKEN_COMPRESSIONS:
        raise MessageError(f"compression {compression!r} is not supported; use gzip", reason="compression")
    try:
        unpacker = zlib.decompressobj(wbits=47)  # gzip or zlib, found by its header
        data = unpacker.decompress(data, max_bytes)
    except zlib.error as error:
        raise MessageError(f"body can't be decompressed: {error}", reason="compression") from None
    if unpacker.unconsumed_tail:
        raise MessageError(
            f"the body has more than {max_bytes} bytes when decompressed (PARTITIONS_MESSAGE_BYTES)", reason="too-large"
        )
    return data


def moment(value: object) -> float | None:
    """The header `eta` or `expires` in seconds since the epoch. It may be ISO 8601 (UTC if it has no zone) or a number. Raises
    `MessageError` for anything else."""
    if value is None:
        return None
    if isinstance(value, int | float) and not isinstance(value, bool):
        if not -MAX_SECONDS <= value <= MAX_SECONDS:
            raise MessageError(f"eta or expires is not a time: {value!r:.40}", reason="bad-time")
        return float(value)
    try:
        at = datetime.fromisoformat(str(value))
    except ValueError:
        raise MessageError(f"eta or expires is not a time: {value!r:.80}", reason="bad-time") from None
    return (at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()


