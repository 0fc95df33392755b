"""A batch: the messages that a turn of the loop works on, and where they come from."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from celery_partitions.model.halving import NOT_HALVED, Halving
from celery_partitions.model.task_lines import partition_of_line


class Verdict(NamedTuple):
    """Why a message becomes a dead letter without running."""

    reason: str
    error: str


@dataclass(slots=True)
class Batch:
    """Messages to step, and where they are stored."""

    messages: list[bytes]
    mailbox_of: str | None = None
    #: For a mailbox: the number of the first message's next try, and how many messages the mailbox has.
    attempt: int = 1
    length: int = 0
    #: Digests of the messages that were recorded in Redis before they run, because a worker died.
    noted: list[str] = field(default_factory=list)
    #: During isolation: how many messages run together next, if this batch is committed.
    next_group: int | None = None
    #: The messages of the mailbox have waited long enough for a task or a state (PARTITIONS_DEPLOY_WAIT_SECONDS).
    waited_out: bool = False
    #: The first message comes at a time that its rate limit has promised.
    waited: bool = False
    #: Of a batch computation's messages.
    halving: Halving = NOT_HALVED
    #: The mailbox is that of a hot key, which has a turn; and whether messages of other keys wait.
    ready: bool = False
    others_wait: Callable[[], bool] | None = None
    #: Why the message becomes a dead letter, or counts as failed, without running.
    condemned: Verdict | None = None
    failed: str | None = None
    #: If several parked keys are retried in one turn: the batch of each. The fields above are then about the first, `messages` has all.
    parts: Sequence[Batch] = ()
    #: The step may not take longer.
    seconds: float = math.inf

    @property
    def line(self) -> str | None:
        """The task's line that the messages come from; None if they come from the queue or a key's mailbox."""
        return None if self.mailbox_of is None or partition_of_line(self.mailbox_of) is None else self.mailbox_of
