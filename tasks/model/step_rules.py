"""The settings and functions that a step uses. Its runner passes them."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import Work
from celery_partitions.model.message_writer import MessageWriter
from celery_partitions.model.messages import MAX_BYTES
from celery_partitions.model.outcome import Pickling
from celery_partitions.model.policy import RetryPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class StepRules:
    """The settings and functions that a step uses."""

    partition: int
    #: The current failure policy of a computation.
    policy_of: Callable[[Computation], RetryPolicy]
    #: The maximum number of messages that may wait for one parked key.
    mailbox_messages: int
    pickling: Pickling
    clock: Callable[[], float]
    #: Returns 0 to 1, for jitter.
    random: Callable[[], float]
    #: The step ends after this time (by `clock`), but not before one message is done.
    seconds: float
    #: In a hot key's turn: whether messages of other keys wait. Then the step ends.
    others_wait: Callable[[], bool] | None = None
    #: The maximum number of messages that may wait for a hot key's turn (PARTITIONS_QUEUE_MAX_LENGTH).
    queue_messages: int = sys.maxsize
    #: Whether the machine calls plain computations without a time limit directly. It yields all others as a `Call`. The outcome is the same, but
    #: most computations take less time than yielding a call.
    inline: bool = True
    #: The longest message that workers decode (PARTITIONS_MESSAGE_BYTES). It limits returned values.
    message_bytes: int = MAX_BYTES
    #: Makes the messages of outputs. None if there are no pipelines.
    writer: MessageWriter | None = None
    #: The server's time for windows, in seconds since the epoch.
    now: float = 0.0
    #: What computations get as `Context.resources`.
    resources: Mapping[str, Any] = field(default_factory=dict)
    #: The Celery app whose sends join the commit.
    app: object = None
    #: Whether calls that wait (`async def`, threads) are made elsewhere: the messages of such a batch computation wait for it in a mailbox.
    calls_apart: bool = False
    #: Called when the step begins, with a function that returns the message being applied and the number of its try.
    begins: Callable[[Callable[[], tuple[Work, int] | None]], None] | None = None
    #: Whether messages wait if their key's state can't be read. If not, they become dead letters.
    unreadable_waits: bool = False
