"""Decides how many due timers and delayed messages join a queue at once, so that other messages do not wait behind thousands of them.

While others come to any partition of this worker, a small group joins the queue of one partition at a time. Otherwise all that a commit may
move do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from celery_partitions.model.items import Item, Work
from celery_partitions.store.commits import MAX_DUE
from celery_partitions.worker.owned import OwnedPartition

#: In one commit, while others come: about as much work as a message that comes then may wait for.
FEW_DUE = 50
#: The shortest time between two such groups. The loop looks at the queues in between.
SPACING_SECONDS = 0.005
#: The longest: a group of slow handlers does not stop the others for long.
MAX_SPACING_SECONDS = 0.2
#: How long others are expected after the last one.
OTHERS_SECONDS = 1.0


class DueTurns:
    """Made once per loop. `clock`: monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._others_until = self._next_group = 0.0
        #: Whether the batch that was read last has due messages.
        self._is_group = False
        #: Partitions with due messages that have not joined the queue.
        self._waiting: set[str] = set()

    def saw(self, items: Iterable[Item]) -> None:
        """A batch was read. Notes whether due messages, and others, are among its messages."""
        self._is_group = False
        for item in items:
            if isinstance(item, Work) and (item.computation.role == "timer" or item.envelope.headers.eta is not None):
                self._is_group = True
            else:
                self._others_until = self._clock() + OTHERS_SECONDS
                return

    def took(self, seconds: float) -> None:
        """The batch took so long. Others get as much time before the next due messages."""
        if self._is_group:
            self._next_group = max(self._next_group, self._clock() + min(seconds, MAX_SPACING_SECONDS))
            self._is_group = False

    def answered(self, owned: OwnedPartition) -> None:
        """A commit or a peek was answered: note whether more messages of the partition are due."""
        if owned.next_due is not None and owned.has_due:
            self._waiting.add(owned.partition)
            self.put_off(owned)
        else:
            self._waiting.discard(owned.partition)

    def put_off(self, owned: OwnedPartition) -> bool:
        """Let the partition's due messages wait, if a group had its turn just now: it is not ready before they may come. Returns whether they wait."""
        now = self._clock()
        if now >= self._others_until or now >= self._next_group:
            return False
        owned.next_due = owned.server_now() + self._next_group - now
        return True

    def limit(self, owned: OwnedPartition) -> int:
        """How many the partition's next commit or peek may move."""
        now = self._clock()
        if now >= self._others_until:
            return MAX_DUE
        if owned.partition in self._waiting or (owned.next_due is not None and owned.has_due):
            if now < self._next_group:
                return 0
            self._next_group = now + SPACING_SECONDS
        return FEW_DUE
