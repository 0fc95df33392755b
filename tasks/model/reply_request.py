"""Finds what a message requests besides running its computation: a result, or follow-ups.

Pure. Called for few messages; for the others `read_batch` checks only one byte.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec
from kombu.utils.json import dumps

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MessageError, ReplyError, describe
from celery_partitions.model.messages import Headers

#: The task name of the message that sends what follows another message.
FOLLOW_UP = "partitions.follow_up"

#: What a body can name to be sent after the message.
FOLLOW_UPS = ("callbacks", "errbacks", "chain", "chord")

#: The end of a body (`[args, kwargs, embed]`) without follow-ups: as Celery writes it, as compact JSON, and as we write it.
NOTHING_FOLLOWS = (
    b'"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
    b'"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
    b"{}]",
)

#: An upper estimate of a follow-up message's size, without the value and what follows.
OTHER_BYTES = 4_000


def wants_reply(computation: Computation, headers: Headers) -> bool:
    """Whether to store the result: the message's `ignore_result` decides, otherwise the computation's `reply=`."""
    ignored = headers.ignore_result
    return computation.replies if ignored is None else ignored is False


def is_reply_request(computation: Computation, headers: Headers, body: bytes) -> bool:
    """Whether the message may request something: a result, or follow-ups named in its body."""
    return wants_reply(computation, headers) or not body.endswith(NOTHING_FOLLOWS)


def refuse_follow_ups(computation: Computation, body: bytes) -> None:
    """Raises `MessageError` if the body names follow-ups."""
    embed = msgspec.json.decode(body)[2]
    named = [name for name in FOLLOW_UPS if isinstance(embed, dict) and embed.get(name)]
    if named:
        raise MessageError(
            f"the message names what follows it ({', '.join(named)}), but computation {computation.name!r} is declared with follow_ups=False",
            reason="follow-ups-refused",
        )


def longest_value(body: bytes, raw: bytes, message_bytes: int) -> int:
    """The limit for a returned value, in bytes of JSON. If something follows the message, the value and what follows share one message, in
    base64."""
    return message_bytes if body.endswith(NOTHING_FOLLOWS) else (message_bytes - len(raw)) * 3 // 4 - OTHER_BYTES


def reply_text(computation: Computation, value: Any, max_bytes: int) -> str:
    """A returned value as Celery's JSON. Raises `ReplyError` if it can't be encoded, or is longer than `max_bytes`."""
    try:
        text = cast(str, dumps(value))
    except Exception as error:
        raise ReplyError(
            f"computation {computation.name!r} returned a {type(value).__name__} that can't be encoded as JSON ({describe(error)}), but "
            "its message requests the result. Return JSON types, or those that kombu encodes (datetime, Decimal, UUID, bytes)"
        ) from error
    if len(text) > max_bytes:
        raise ReplyError(
            f"computation {computation.name!r} returned a value of {len(text)} bytes of JSON, and its message requests the result. "
            f"The limit is {max_bytes} bytes (PARTITIONS_MESSAGE_BYTES). Store large data elsewhere and return a reference"
        )
    return text
