"""Converts a user's message to the body of a Celery message, and back."""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterator
from functools import lru_cache, partial
from typing import Any

import msgspec
from kombu.utils.json import object_hook

from celery_partitions.model.errors import DeclarationError, MessageError, describe
from celery_partitions.model.messages import decode_json, encode_json, not_json
from celery_partitions.model.pydantic_types import (
    changed_field,
    classes_in,
    decode_inside,
    field_that_never_arrives,
    is_pydantic,
    json_of,
    plain_inside,
    validate,
)
from celery_partitions.model.redaction import unquoted, unquoted_of_pydantic

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

    def encode_usual(self, message: object, decoded: bytes = b"") -> bytes | None:
        """The body for an instance of exactly the annotated class, without pydantic. None for any other message, for one that is invalid, and
        for one that `encode` must look at. `decoded`: a body that this annotation fits: a message that passes a stage unchanged is not checked
        again."""
        if type(message) is not self._wanted or self._has_pydantic:
            return None
        try:
            written = encode_json(message)
            body = b"[[%b],{},{}]" % written
            if written.find(b"null") >= 0:  # `find` takes half as long as `in`
                return None
            if body != decoded:
                if written.find(b'"__') >= 0:
                    return None
                self._decode_message(written)
        except Exception:  # `encode` raises an error that says what is wrong
            return None
        return body

    def has_annotation_of(self, other: MessageCodec) -> bool:
        """Whether both have the same annotation."""
        return self._wanted is other._wanted

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
            raise not_json("the body", error) from None
        except Exception as error:  # from the message class's code: `__post_init__`, default factories
            raise self._misfit(error) from error
        return message if self._validate is None else self._validated(message)

    def _misfit(self, error: Exception) -> MessageError:
        return MessageError(f"{self.parameter}: {describe(error)}", reason="wrong-type")

    def _decode_slowly(self, body: bytes) -> Any:
        """Decode keyword arguments and kombu's `__type__` objects. Raises `MessageError` with the field's path."""
        content = decode_json(body, "the body")
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


#: Most values have one of a few classes.
_is_pydantic: Callable[[object], bool] = lru_cache(maxsize=256)(is_pydantic)


def write_message(message: object, *, is_plain: bool = False) -> bytes:
    """A message as JSON. Raises `MessageError` for a value that can't be encoded. NaN and infinity become null. `is_plain`: it is known to be
    no pydantic object."""
    try:
        return encode_json(message) if is_plain or not _is_pydantic(type(message)) else json_of(message)
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
