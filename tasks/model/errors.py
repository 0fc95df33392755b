"""The errors of the product, drawn once:

PartitionError
├── DeclarationError      a computation, key extractor or state class that can't work; raised when declared
├── MessageError          a message that can't be taken; at the producer it is raised, at a worker a dead letter
│   └── KeyExtractionError  its key can't be had
├── ReplyError            a returned value that was asked for can't be JSON; a failure as any other
├── TimeLimitExceeded     a computation took longer than its time_limit; raised inside it, and a failure as any other
├── StateError            a stored state that can't be read (wrong tag, unknown format, unpicklable)
├── SetupError            this process and the server, or the group, don't fit; the message says the mend
├── QueueFull             a partition's queue has as many messages as PARTITIONS_QUEUE_MAX_LENGTH allows; nothing was sent
├── SendInterrupted       `send_many` lost the connection; says what is known to be in  (celery_partitions.producer.bulk)
├── FrameError            bytes of a TCP source are no payload as its decoder declares  (celery_partitions.pipeline.frames)
└── Stopped, Refused      a source's process is to end, or was overtaken by another; never leave it  (celery_partitions.sources)
"""

from __future__ import annotations

import traceback

#: What is kept of an error's text, and of a traceback's.
MAX_ERROR_CHARACTERS = 4_000
MAX_TRACE_CHARACTERS = 40_000


class PartitionError(Exception):
    """Base of all that this product raises on purpose."""


class OneKeyWarning(UserWarning):
    """A stage of a pipeline has one key, and so no parallelism."""


class DeclarationError(PartitionError, TypeError):
    """A declaration that can't work; raised at import of the user's module."""


class MessageError(PartitionError, ValueError):
    """A message that can't be taken. `reason` is the dead letter's reason, one of a few fixed words."""

    def __init__(self, message: str, *, reason: str = "bad-message") -> None:
        super().__init__(message)
        self.reason = reason


class KeyExtractionError(MessageError):
    """The key extractor raised, or returned what can't be a key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="bad-key")


class ReplyError(PartitionError, TypeError):
    """A computation returned what can't be JSON, and its message asks for the value."""


class TimeLimitExceeded(PartitionError):
    """Raised inside a computation that took longer than its `time_limit`; it may clean up, and must end."""


class StateError(PartitionError):
    """A stored state that can't be read. It is left as it is, and never unpickled."""


class SetupError(PartitionError):
    """This process and what it found don't fit together; the text says what to do."""


class QueueFull(PartitionError):
    """A partition's queue is as long as it may be. Raised at the producer; the message was not sent."""

    def __init__(self, queue: str, length: int, limit: int) -> None:
        super().__init__(
            f"{queue} holds {length:,} messages, and PARTITIONS_QUEUE_MAX_LENGTH is {limit:,}: the message was not sent. Send it again "
            "when the workers have caught up, start more of them, or raise the limit; send_many waits by itself"
        )
        self.queue, self.length, self.limit = queue, length, limit

    def __reduce__(self) -> tuple[type[QueueFull], tuple[str, int, int]]:
        return type(self), (self.queue, self.length, self.limit)


def describe(error: BaseException) -> str:
    """`Type: text` of a user's exception. Never raises, whatever its `__str__` does, and can always be encoded."""
    try:
        text = f"{type(error).__name__}: {error}"
    except Exception as worse:
        text = f"{type(error).__name__} (whose text can't be had: its __str__ raises {type(worse).__name__})"
    return shortened(encodable(text))


def trace_of(error: BaseException) -> str:
    """The traceback of a user's exception, with the same promise."""
    try:
        return shortened(encodable("".join(traceback.format_exception(error))), MAX_TRACE_CHARACTERS)
    except Exception as worse:
        return f"no traceback can be had: {type(worse).__name__}"


def without_frames(error: BaseException) -> BaseException:
    """The exception, and those behind it, without their tracebacks: those hold all that the failed call and its step held."""
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
    """A long text without its middle. An error often quotes a message, and is kept, sent and shown several times."""
    if len(text) <= limit:
        return text
    return f"{text[: limit // 2]} … ({len(text) - limit} characters left out) … {text[-(limit // 2) :]}"


def encodable(text: str) -> str:
    """Text without lone surrogates, which JSON and Redis can't be given."""
    return text.encode("utf-8", "backslashreplace").decode()
