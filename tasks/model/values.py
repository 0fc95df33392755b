"""Python values in messages between stages: as JSON if that restores the value exactly, otherwise as a signed pickle.

    [[<value>], {}, {}]                          a JSON value, which the stage's annotation may convert
    [[{"__pickle__": "<base64>"}], {}, {}]       any other value; `celery_partitions.store.codec` signs the bytes

Without a signing key, messages contain no pickles (law 8). Then such a value fails in the stage that returns it.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Callable
from math import isfinite
from typing import Any

from celery_partitions.model.errors import MessageError, StateError
from celery_partitions.model.message_codec import MessageCodec
from celery_partitions.model.message_writer import TIMER_BODY, json_text

_PICKLED = b'[[{"__pickle__":"'
_END = b'"}],{},{}]'
#: The beginnings of bodies that are not decoded as JSON values.
_SPECIAL = (_PICKLED, TIMER_BODY)
#: The JSON decoder returns integers below this as int.
_MAX_INT = 2**63


#: The codec for values without an annotation.
ANY_VALUE = MessageCodec(Any, "value")


class Timer:
    """What a stage receives instead of a value when its timer is due."""


TIMER = Timer()


def is_exact(value: Any, depth: int = 0) -> bool:
    """Whether JSON restores the value exactly: it contains no tuples, bytes, dict keys that are not str, or other objects."""
    kind = type(value)
    if kind is str or kind is bool or value is None:
        return True
    if kind is int:
        return bool(-_MAX_INT <= value < _MAX_INT)
    if kind is float:
        return bool(isfinite(value))
    if depth > 100:
        return False
    if kind is list:
        return all(is_exact(one, depth + 1) for one in value)
    if kind is dict:
        if "__pickle__" in value or "__type__" in value or "__timer__" in value:
            return False
        return all(type(name) is str and is_exact(one, depth + 1) for name, one in value.items())
    return False


def dump_value(codec: MessageCodec, value: Any, pickled: Callable[[], bytes]) -> bytes:
    """The body of a message with this value. `pickled` returns its signed pickle, or raises `StateError` without a signing key.

    Raises `MessageError` for a value that does not match the annotation or can't be sent.
    """
    if codec.is_typed:
        body = codec.encode(value)[0]
        if not body.startswith(_SPECIAL):
            return body
    elif is_exact(value):
        try:
            return b"[[" + json_text(value) + b"],{},{}]"
        except UnicodeEncodeError:
            pass  # a lone surrogate
    try:
        return _PICKLED + b64encode(pickled()) + _END
    except StateError as error:
        raise MessageError(
            f"a {type(value).__qualname__} can't be sent as JSON or as a pickle: {error}. Annotate the parameter that receives it (for "
            "example with a dataclass), return JSON types, or set PARTITIONS_STATE_SIGNING_KEY to send such values as signed pickles",
            reason="wrong-type",
        ) from error


def load_value(codec: MessageCodec, body: bytes, unpickled: Callable[[bytes], Any]) -> Any:
    """The value in a body. `unpickled` verifies the signature first, and raises `StateError`. Raises `MessageError` for an invalid body."""
    if body == TIMER_BODY:
        return TIMER
    if not body.startswith(_PICKLED):
        return codec.decode(body)
    if not body.endswith(_END):
        raise MessageError("the body contains more than a pickled value", reason="wrong-arguments")
    try:
        return unpickled(binascii.a2b_base64(body[len(_PICKLED) : -len(_END)], strict_mode=True))
    except (binascii.Error, StateError) as error:
        raise MessageError(f"the value is not unpickled: {error}", reason="bad-signature") from error
