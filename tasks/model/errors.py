"""The errors of the product, drawn once:

PartitionError
├── DeclarationError      a computation, key extractor or state class that cannot work; raised at import
├── MessageError          an invalid message; raised at a Python producer, a dead letter at a worker
│   └── KeyExtractionError  the key extractor failed, or returned something that is not a key
├── ReplyError            a returned value is not JSON, and the message asks for it; counts as a failure
├── TimeLimitExceeded     a computation exceeded its time_limit; raised inside it, counts as a failure
├── StateError            a stored state cannot be read (wrong signature, unknown format, unpickling failed)
│   └── MigrationFailed     a migration raised, or returned what the class cannot hold; counts as a failure
├── SetupError            this process does not fit the server or the group; the message says what to do
├── QueueFull             the queue is at PARTITIONS_QUEUE_MAX_LENGTH; the message was not sent
├── SendInterrupted       `send_many` could not continue; says which messages are in  (celery_partitions.producer.bulk)
├── FrameError            bytes of a TCP source do not fit its decoder  (celery_partitions.pipeline.frames)
└── Stopped, Refused      internal to a source's process: stopped, or replaced  (celery_partitions.sources)
"""

from __future__ import annotations

import re
import traceback
from pathlib import Path
from types import TracebackType

#: Longer error texts and tracebacks lose their middle.
MAX_ERROR_CHARACTERS = 4_000
MAX_TRACE_CHARACTERS = 40_000

#: What Redis adds to an error that a script met.
_IN_SCRIPT = re.compile(r" script: [0-9a-f]+, on @user_script:\d+\.?$")
#: The code between a worker's loop and the user's function.
_OURS = tuple(f"{Path(__file__).parent.parent / folder}/" for folder in ("model", "worker", "testing"))


class PartitionError(Exception):
    """Base class of all errors that celery-partitions raises."""


class OneKeyWarning(UserWarning):
    """A pipeline stage has only one key, so it cannot run in parallel."""


class DeclarationError(PartitionError, TypeError):
    """A declaration that cannot work. Raised when your module is imported."""


class MessageError(PartitionError, ValueError):
    """An invalid message. `reason` is the reason that its dead letter would have, one of a few fixed words."""

    def __init__(self, message: str, *, reason: str = "bad-message") -> None:
        super().__init__(message)
        self.reason = reason


class EventTimeAhead(MessageError):
    """A message's event time is further ahead of the clock than its source allows. The message becomes a dead letter."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="event-time-ahead")


class KeyExtractionError(MessageError):
    """The key extractor raised, or returned something that cannot be a key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="bad-key")


class ReplyError(PartitionError, TypeError):
    """A computation returned a value that is not JSON, and the message asks for its result."""


class TimeLimitExceeded(PartitionError):
    """Raised inside a computation that exceeded its `time_limit`. The computation may clean up, and must then return."""


class StateError(PartitionError):
    """A stored state that cannot be read. It stays in Redis unchanged, and is not unpickled."""


class MigrationFailed(StateError):
    """A state of an older version that your migrations cannot convert. The message that needs it counts as failed."""


class SetupError(PartitionError):
    """This process does not fit the server or the partition group. The text says what to do."""


class QueueFull(PartitionError):
    """A partition's queue has reached its limit. Raised at the producer; the message was not sent."""

    def __init__(self, queue: str, length: int, limit: int) -> None:
        super().__init__(
            f"{queue} holds {length:,} messages, and PARTITIONS_QUEUE_MAX_LENGTH is {limit:,}: the message was not sent. Send it again "
            "when the workers have caught up, start more workers, or raise the limit. send_many waits automatically"
        )
        self.queue, self.length, self.limit = queue, length, limit

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int, int]]:
        return type(self), (self.queue, self.length, self.limit)


def describe(error: BaseException) -> str:
    """`Type: text` for any exception, `Type` for one without text. Never raises, even if `__str__` does; the text can always be encoded as
    UTF-8."""
    try:
        text = f"{type(error).__name__}: {error}".removesuffix(": ")
    except Exception as worse:
        text = f"{type(error).__name__} (no text: its __str__ raises {type(worse).__name__})"
    return shortened(encodable(text))


def refusal_of(error: Exception) -> str:
    """The text of a server's error, without the digest and line of the script that met it."""
    return _IN_SCRIPT.sub("", str(error))


def trace_of(error: BaseException) -> str:
    """The traceback of any exception, with the same guarantee."""
    try:
        return shortened(encodable("".join(traceback.format_exception(error))), MAX_TRACE_CHARACTERS)
    except Exception as worse:
        return f"no traceback: {type(worse).__name__}"


def frames_of(error: BaseException) -> TracebackType | None:
    """The part of an exception's traceback that begins with the user's code. The whole one, if it has none."""
    frames = error.__traceback__
    while frames is not None and frames.tb_frame.f_code.co_filename.startswith(_OURS):
        frames = frames.tb_next
    return frames or error.__traceback__


def without_frames(error: BaseException) -> BaseException:
    """The exception and its causes without their tracebacks, which would keep every object of the failed call alive."""
    left: list[BaseException | None] = [error]
    seen: set[int] = set()
    while left:
        one = left.pop()
        if one is not None and id(one) not in seen:
            seen.add(id(one))
            BaseException.with_traceback(one, None)
            left += [one.__cause__, one.__context__]
    return error


def shortened(text: str, limit: int = MAX_ERROR_CHARACTERS) -> str:
    """Text of at most `limit` characters: a longer one loses its middle. Errors often quote a whole message."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … ({len(text) - limit} characters left out) … {text[-(limit // 2) :]}"


def encodable(text: str) -> str:
    """Text with lone surrogates escaped. JSON and Redis accept only valid Unicode."""
    return text.encode("utf-8", "backslashreplace").decode()
