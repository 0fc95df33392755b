"""Any Python value in the JSON body of a message between stages: as JSON where that gives it back exactly, else as a signed pickle.

    [[<value>], {}, {}]                          a value that JSON has, or that the stage's annotation makes of JSON
    [[{"__pickle__": "<base64>"}], {}, {}]       any other; the bytes are as `celery_partitions.store.codec` signs them

Without a signing key there are no pickles in messages (law 8): such a value is refused where it is returned.
"""

from __future__ import annotations

import binascii
from base64 import b64encode
from collections.abc import Callable
from math import isfinite
from typing import Any

from celery_partitions.model.errors import MessageError, StateError
from celery_partitions.model.message_writer import TIMER_BODY, json_text
from celery_partitions.model.messages import MessageCodec

_PICKLED = b'[[{"__pickle__":"'
_END = b'"}],{},{}]'
#: How bodies begin that are read otherwise than as JSON.
_SPECIAL = (_PICKLED, TIMER_BODY)
#: What JSON's reader gives back as an int.
_MAX_INT = 2**63


#: Reads and writes what has no annotation.
ANY_VALUE = MessageCodec(Any, "value")


class Timer:
    """What a stage is given instead of a value when a timer that it set is due."""


TIMER = Timer()


def is_exact(value: Any, depth: int = 0) -> bool:
    """Whether JSON gives the value back as it is: no tuple, no bytes, no key that is no text, no object of a class."""
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
    """The body of a message with this value. `pickled` gives its signed pickle, or raises `StateError` without a signing key.

    Raises `MessageError` for a value that does not fit the annotation, or can't be carried.
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
            f"a {type(value).__qualname__} can't be written as JSON: {error}. Annotate the parameter that takes it (a dataclass, "
            "say), return what JSON has, or set PARTITIONS_STATE_SIGNING_KEY: then such values travel as signed pickles",
            reason="wrong-type",
        ) from error


def load_value(codec: MessageCodec, body: bytes, unpickled: Callable[[bytes], Any]) -> Any:
    """The value in a body. `unpickled` checks the signature first, and raises `StateError`. Raises `MessageError`."""
    if body == TIMER_BODY:
        return TIMER
    if not body.startswith(_PICKLED):
        return codec.decode(body)
    if not body.endswith(_END):
        raise MessageError("a pickled value and something more", reason="wrong-arguments")
    try:
        return unpickled(binascii.a2b_base64(body[len(_PICKLED) : -len(_END)], strict_mode=True))
    except (binascii.Error, StateError) as error:
        raise MessageError(f"the value is not unpickled: {error}", reason="bad-signature") from error
