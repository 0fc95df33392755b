"""What a message asks for beside its own effect: that its value is told, or that something follows it.

Pure. Called for few messages: `read_batch` looks at one byte of the others.
"""

from __future__ import annotations

from typing import Any, cast

from kombu.utils.json import dumps

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import ReplyError, describe
from celery_partitions.model.messages import Headers

#: The task name of the message that sends what follows another message.
FOLLOW_UP = "partitions.follow_up"

#: How a body ends when nothing follows its message: `[args, kwargs, embed]`, as Celery, as compact JSON, and as we write it.
NOTHING_FOLLOWS = (
    b'"callbacks": null, "errbacks": null, "chain": null, "chord": null}]',
    b'"callbacks":null,"errbacks":null,"chain":null,"chord":null}]',
    b"{}]",
)

#: What a follow-up message holds beside the value and what follows.
OTHER_BYTES = 4_000


def wants_reply(computation: Computation, headers: Headers) -> bool:
    """Whether the value is to be stored: as the message says (`ignore_result`), else as the computation was declared."""
    ignored = headers.ignore_result
    return computation.replies if ignored is None else ignored is False


def is_reply_request(computation: Computation, headers: Headers, body: bytes) -> bool:
    """Whether the message asks for anything: its value, or what its body may name as what follows."""
    return wants_reply(computation, headers) or not body.endswith(NOTHING_FOLLOWS)


def longest_value(body: bytes, raw: bytes, message_bytes: int) -> int:
    """The longest value, in bytes of JSON, that can be sent on. If something follows the message, the value and what follows
    travel in one message, in base64."""
    return message_bytes if body.endswith(NOTHING_FOLLOWS) else (message_bytes - len(raw)) * 3 // 4 - OTHER_BYTES


def reply_text(computation: Computation, value: Any, max_bytes: int) -> str:
    """A returned value as Celery's JSON. Raises `ReplyError` for a value that can't be JSON, or is longer than `max_bytes`."""
    try:
        text = cast(str, dumps(value))
    except Exception as error:
        raise ReplyError(
            f"computation {computation.name!r} returned a {type(value).__name__} that can't be JSON ({describe(error)}), and its "
            "message asks for the value: return JSON, or what kombu writes (datetime, Decimal, UUID, bytes)"
        ) from error
    if len(text) > max_bytes:
        raise ReplyError(
            f"computation {computation.name!r} returned a value of {len(text)} bytes of JSON, and its message asks for the value. "
            f"At most {max_bytes} bytes are sent (PARTITIONS_MESSAGE_BYTES). Keep large data elsewhere and return its place"
        )
    return text
