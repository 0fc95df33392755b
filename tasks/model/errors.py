"""The errors of the product, drawn once:

PartitionError
├── DeclarationError      a computation, key extractor or state class that can't work; raised when declared
├── MessageError          a message that can't be taken; at the producer it is raised, at a worker a dead letter
│   └── KeyExtractionError  its key can't be had
├── StateError            a stored state that can't be read (wrong tag, unknown format, unpicklable)
├── SetupError            this process and the server, or the group, don't fit; the message says the mend
└── SendInterrupted       `send_many` lost the connection; says what is known to be in  (tasks.producer)
"""

from __future__ import annotations


class PartitionError(Exception):
    """Base of all that this product raises on purpose."""


class DeclarationError(PartitionError, TypeError):
    """A declaration that can't work; raised at import of the user's module."""


class MessageError(PartitionError, ValueError):
    """A message that can't be taken. `reason` is the dead letter's reason, a fixed word of `tasks.model.outcome`."""

    def __init__(self, message: str, *, reason: str = "bad-message") -> None:
        super().__init__(message)
        self.reason = reason


class KeyExtractionError(MessageError):
    """The key extractor raised, or returned what can't be a key."""

    def __init__(self, message: str) -> None:
        super().__init__(message, reason="bad-key")


class StateError(PartitionError):
    """A stored state that can't be read. It is left as it is, and never unpickled."""


class SetupError(PartitionError):
    """This process and what it found don't fit together; the text says what to do."""
