"""Reads Celery messages from a queue, and converts the user's message inside them.

Wire format (kombu's Redis transport, message protocol 2): a JSON object
`{body, content-type, content-encoding, headers, properties}`; `body` is base64 of JSON `[args, kwargs, embed]`; `headers` has
`task` and `id`. Protocol 1, which has all of that in the body, is accepted too and gives the same `Envelope`.
Source: Celery's "Message Protocol" reference and kombu 5.7's `virtual.Channel`.
"""

from __future__ import annotations

import binascii
import contextlib
import importlib
import inspect
import math
import types
import typing
import zlib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import partial
from typing import Any, Literal

import msgspec
from kombu.utils.json import object_hook

from celery_partitions.model.errors import DeclarationError, MessageError, describe
from celery_partitions.model.pydantic_types import (
    changed_field,
    classes_in,
    decode_inside,
    encode_inside,
    field_that_never_arrives,
    is_pydantic,
    json_of,
    plain_inside,
    validate,
)
from celery_partitions.model.redaction import unquoted, unquoted_of_pydantic

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


#: Decodes a message of the usual form in one call of C code. Raises one of `NOT_USUAL` for any other.
open_usual = msgspec.json.Decoder(Envelope).decode
_open_details = msgspec.json.Decoder(_Detailed).decode
_open_origin = msgspec.json.Decoder(_WithOrigin).decode
NOT_USUAL = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_anything = msgspec.json.Decoder()
_encode = msgspec.json.Encoder(enc_hook=encode_inside).encode


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
    message = _json(raw, "the message")
    if not isinstance(message, dict):
        raise MessageError(f"a message must be a JSON object, not {type(message).__name__}", reason="not-a-message")
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
        content = _json(body, "the body")
        if not isinstance(content, dict) or "task" not in content:
            raise MessageError("the message has neither headers.task (protocol 2) nor body.task (protocol 1)", reason="missing-headers")
        headers = {**content, **headers}
        body = _encode([content.get("args") or [], content.get("kwargs") or {}, {}])
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


def _json(data: bytes, what: str) -> Any:
    try:
        return _anything.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise MessageError(f"{what} is not JSON: {error}", reason="not-json") from None


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


#: Annotations that say no more than JSON itself, so that they can't restore every Python value.
_BARE = (dict, list, tuple, set, frozenset, bytes, bytearray)


class MessageCodec:
    """Converts between a user's message and the body of a Celery message, for one annotation.

    The annotation may be a dataclass, `msgspec.Struct`, TypedDict, attrs class, pydantic model or dataclass, or builtin type, and may
    contain them. Without an annotation, a message is the decoded JSON. Raises `DeclarationError` for a type that JSON can't be converted to.
    """

    def __init__(self, annotation: Any, parameter: str) -> None:
        self.parameter = parameter
        self.annotation = annotation
        #: How to send one message, for errors: `update_stock.delay(Stock(…))`.
        self.example = ""
        self._validate: Callable[[Any], Any] | None = None
        wanted: Any = Any if annotation in (inspect.Parameter.empty, Any, object) else annotation
        if is_pydantic(wanted):
            self._validate = partial(validate, wanted)
            wanted = Any
        self._wanted = wanted
        #: Whether the annotation says how to convert JSON. Bare containers don't.
        self.is_typed = self._validate is not None or wanted not in (Any, *_BARE)
        try:
            # [args, kwargs, …]; further elements are ignored.
            fields = [("args", tuple[wanted]), ("kwargs", _NoArguments)]
            self._decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(
                msgspec.defstruct("Body", fields, array_like=True, gc=False), dec_hook=decode_inside
            )
            self._decode_message = msgspec.json.Decoder(wanted, dec_hook=decode_inside).decode
            classes = [] if wanted is Any else classes_in(wanted)
            self._refuse_unknown(classes)
            self._refuse_lossy([annotation] if self._validate is not None else classes)
            self._has_pydantic = self._validate is not None or bool(classes)
            #: Decodes a body of the usual form, `[[message], {}, …]`, in one call of C code; the message is `args[0]` of the result.
            #: Raises one of `NOT_USUAL` for others. None if the annotation needs more than that (pydantic).
            self.decode_usual = self._decoder.decode if self._validate is None else None
        except (TypeError, NameError) as error:
            raise DeclarationError(
                f"messages of type {annotation!r} can't be decoded from JSON: {error}. "
                "Annotate the first parameter with a dataclass, msgspec.Struct, TypedDict, attrs class or pydantic model"
            ) from error

    @staticmethod
    def _refuse_unknown(classes: list[type]) -> None:
        for one in classes:
            if not is_pydantic(one):
                raise TypeError(f"msgspec does not support {one.__qualname__}")

    @staticmethod
    def _refuse_lossy(classes: list[type]) -> None:
        for one in classes:
            if (path := field_that_never_arrives(one)) is not None:
                raise DeclarationError(
                    f"{one.__qualname__} can't be a message: JSON does not give the field at `{path}` back (its type hides it, or the model "
                    "leaves it out), so no message could arrive. Give the model a field_serializer that writes it"
                )

    def encode(self, message: object) -> tuple[bytes, Any]:
        """The body for `message` (an object or a dict), and the message as the worker will see it.

        Raises `MessageError`, with the field's path, if it is invalid.
        """
        written = write_message(message, is_plain=type(message) is self._wanted)
        # JSON has no NaN and no infinity: the encoders write null for them. A message without null has none.
        if b"null" in written:
            _refuse_non_finite(msgspec.to_builtins(message, enc_hook=plain_inside), "$")
        body = b"[[" + written + b"],{},{}]"
        if self._has_pydantic or b'"__type__"' in written:
            decoded = self.decode(body)
        else:
            try:
                decoded = self._decode_message(written)
            except Exception:  # `decode` raises an error that says what is wrong
                decoded = self.decode(body)
        if self._has_pydantic and (path := changed_field(message, decoded)) is not None:
            raise MessageError(
                f"{self.parameter}: JSON does not give this field's value back (its type hides it, or the model leaves it out or changes it), "
                f"so the computation would get another value. Give the model a field_serializer that writes it - at `{path}`",
                reason="wrong-type",
            )
        return body, decoded

    def decode(self, body: bytes) -> Any:
        """The user's message in a body. Raises `MessageError`, with the field's path, if it is invalid."""
        try:
            if b'"__type__"' in body:
                return self._decode_slowly(body)
            message = self._decoder.decode(body).args[0]
        except msgspec.ValidationError:
            return self._decode_slowly(body)
        except MessageError:
            raise
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise MessageError(f"the body is not JSON: {error}", reason="not-json") from None
        except Exception as error:  # from the message class's code: `__post_init__`, default factories
            raise self._misfit(error) from error
        return message if self._validate is None else self._validated(message)

    def _misfit(self, error: Exception) -> MessageError:
        return MessageError(f"{self.parameter}: {describe(error)}", reason="wrong-type")

    def _decode_slowly(self, body: bytes) -> Any:
        """Decode keyword arguments and kombu's `__type__` objects. Raises `MessageError` with the field's path."""
        content = _json(body, "the body")
        message = self.from_arguments(*arguments(content))
        with self._misfits():
            message = _unwrap(message) if b'"__type__"' in body else message
            message = msgspec.convert(message, self._wanted, dec_hook=decode_inside) if self._wanted is not Any else message
        return message if self._validate is None else self._validated(message)

    @contextlib.contextmanager
    def _misfits(self) -> Iterator[None]:
        """Convert what msgspec or the message class's own code raises to `MessageError`."""
        try:
            yield
        except msgspec.ValidationError as error:
            raise MessageError(f"{self.parameter}: {unquoted(error)}", reason="wrong-type") from None
        except MessageError:
            raise
        except Exception as error:
            raise self._misfit(error) from error

    def _validated(self, message: Any) -> Any:
        assert self._validate is not None
        try:
            return self._validate(message)
        except ValueError as error:  # pydantic's ValidationError is one
            raise MessageError(f"{self.parameter}: {unquoted_of_pydantic(error)}", reason="wrong-type") from None
        except Exception as error:  # the model's own validators
            raise self._misfit(error) from error

    def from_text(self, cells: dict[str, str | None]) -> Any:
        """A message from texts (CSV), each converted to its field's type. Raises `MessageError` with the field's path."""
        if self._validate is None and self._wanted is Any:
            return cells
        if self._validate is not None:
            return self._validated(cells)
        with self._misfits():
            return msgspec.convert(cells, self._wanted, strict=False, dec_hook=decode_inside)

    def from_arguments(self, args: Any, kwargs: Any) -> Any:
        """The message in a task call's arguments. Raises `MessageError` unless there is exactly one."""
        if isinstance(args, list | tuple) and len(args) == 1 and not kwargs:
            return args[0]
        if not args and isinstance(kwargs, dict) and list(kwargs) == [self.parameter]:
            return kwargs[self.parameter]
        counted = len(args) if isinstance(args, list | tuple) else f"a {type(args).__name__} of"
        named = len(kwargs) if isinstance(kwargs, dict | list) else f"a {type(kwargs).__name__} of"
        given = f"{counted} positional and {named} keyword arguments"
        advice = f". Send one object: {self.example}" if self.example else ""
        raise MessageError(f"a computation takes exactly one message ({self.parameter}), but the call has {given}{advice}", reason="wrong-arguments")


class _NoArguments(msgspec.Struct, forbid_unknown_fields=True):
    """An empty JSON object: no keyword arguments."""


def arguments(content: Any) -> tuple[Any, Any]:
    """The args and kwargs of a decoded protocol 2 body. Raises `MessageError` if it has none."""
    if not isinstance(content, list) or len(content) < 2:
        raise MessageError("a body must be [args, kwargs, embed]", reason="wrong-arguments")
    return content[0], content[1]


def write_message(message: object, *, is_plain: bool = False) -> bytes:
    """A message as JSON. Raises `MessageError` for a value that can't be encoded. NaN and infinity become null. `is_plain`: it is known to be
    no pydantic object."""
    try:
        return _encode(message) if is_plain or not is_pydantic(type(message)) else json_of(message)
    except (TypeError, ValueError, msgspec.EncodeError, RecursionError, OverflowError) as error:
        raise MessageError(f"the message can't be encoded as JSON: {error}", reason="wrong-type") from error


def _refuse_non_finite(value: Any, path: str) -> None:
    if isinstance(value, float):
        if not math.isfinite(value):
            raise MessageError(f"JSON has no {value}; send null or a finite number - at `{path}`", reason="wrong-type")
    elif isinstance(value, dict):
        for name, item in value.items():
            _refuse_non_finite(item, f"{path}.{name}")
    elif isinstance(value, list | tuple | set | frozenset):
        for number, item in enumerate(value):
            _refuse_non_finite(item, f"{path}[{number}]")


def _unwrap(value: Any) -> Any:
    """Decode datetime, Decimal, UUID and others, which kombu's JSON encodes as `{"__type__": …, "__value__": …}`."""
    if isinstance(value, dict):
        content = {name: _unwrap(item) for name, item in value.items()}
        try:
            return object_hook(content)
        except Exception as error:  # its text contains the value, which must not be logged
            kind = type(error).__name__
            raise MessageError(f"a value with a __type__ can't be decoded: {kind}", reason="wrong-type") from None
    if isinstance(value, list):
        return [_unwrap(item) for item in value]
    return value


def plain_function(function: Any) -> Any:
    """The function inside a `staticmethod`, a `partial`, a decorator that uses `functools.wraps`, or an object with `__call__`."""
    while True:
        match function:
            case types.FunctionType() if not hasattr(function, "__wrapped__"):
                return function
            case types.MethodType() | staticmethod():
                function = function.__func__
            case partial():
                function = function.func
            case type():
                return function
            case _:
                inner = getattr(function, "__wrapped__", None) or getattr(type(function), "__call__", None)  # noqa: B004
                if not isinstance(inner, types.FunctionType | types.MethodType | staticmethod | partial):
                    return function
                function = inner


def _annotations(function: Any) -> dict[str, Any]:
    """A function's annotations as they are written. One that names what exists for type checkers only does no harm."""
    try:
        return dict(getattr(function, "__annotations__", {}))
    except NameError:  # since Python 3.14 they are evaluated when they are asked for
        library: Any = importlib.import_module("annotationlib")
        return dict(library.get_annotations(function, format=library.Format.FORWARDREF))


def first_annotation(function: Callable[..., Any], parameter: str) -> Any:
    """The annotation of a function's parameter, with strings resolved. `inspect.Parameter.empty` if there is none."""
    target = plain_function(function)
    written = _annotations(target).get(parameter, inspect.Parameter.empty)
    if written is inspect.Parameter.empty:
        return written
    # This one alone: another parameter's may be imported for type checkers only.
    alone: Any = types.SimpleNamespace(__annotations__={parameter: written})
    try:
        return typing.get_type_hints(alone, getattr(target, "__globals__", {}), include_extras=True)[parameter]
    except NameError as error:
        raise DeclarationError(
            f"the annotation of {parameter} can't be resolved: {error}. Define the message class at the top level of a module"
        ) from error
