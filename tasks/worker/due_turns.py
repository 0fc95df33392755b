"""Decides when due timers and delayed messages join a queue, and how many, so that other messages do not wait behind thousands of them.

While others come to any partition of this worker, due messages join a queue in small groups: by a peek, at the partition's turn, and the group
is processed in that turn. So a message that comes waits for one group at most. Otherwise all that a commit may move do.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celery_partitions.model.items import Item, Work
from celery_partitions.store.commits import MAX_DUE
from celery_partitions.worker.owned import OwnedPartition

#: In one group, while others come: about as much work as a message that comes then may wait for.
FEW_DUE = 50
#: How long a group may take; fewer are taken of slow handlers. Long compared with 50 fast ones on a slow machine.
GROUP_SECONDS = 0.02
#: The longest time that others get after a group.
MAX_SPACING_SECONDS = 0.2
#: A partition that always has other messages gets a group that often, at the end of its queue.
PATIENCE_SECONDS = 0.1
#: How long others are expected after the last one.
OTHERS_SECONDS = 1.0


class DueTurns:
    """Made once per loop. `clock`: monotonic."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._others_until = self._next_group = 0.0
        #: How many due messages the batch that was read last begins or ends with, as far as is known: 0 if none.
        self._group = 0
        self._few = FEW_DUE
        #: Partitions with due messages that have not joined the queue, and since when they wait for a group.
        self._waiting: dict[str, float] = {}
        #: Those that are not ready before `_next_group`.
        self._put_off: dict[str, OwnedPartition] = {}

    def saw(self, items: Sequence[Item]) -> None:
        """A batch was read. Notes whether due messages, and others, are among its messages."""
        self._group = 0
        if not items:
            return
        others = not all(map(_is_due, items))  # stops at the first
        if others:
            self._others_until = self._clock() + OTHERS_SECONDS
        if not others or _is_due(items[0]) or _is_due(items[-1]):
            self._group = len(items)

    def took(self, seconds: float) -> None:
        """The batch took so long. If it was a group, others that come get as much time before the next."""
        count, self._group = self._group, 0
        if count:
            self._few = max(1, min(FEW_DUE, int(count * GROUP_SECONDS / max(seconds, 1e-6))))
            self._next_group = max(self._next_group, self._clock() + min(seconds, MAX_SPACING_SECONDS))

    @property
    def holds(self) -> bool:
        """Whether due messages wait for others."""
        return bool(self._put_off)

    def go_on(self) -> None:
        """No partition is ready: due messages wait no longer."""
        self._next_group = 0.0
        put_off, self._put_off = self._put_off, {}
        for owned in put_off.values():
            if owned.next_due is not None:
                owned.next_due = min(owned.next_due, owned.server_now())

    def answered(self, owned: OwnedPartition) -> None:
        """A commit or a peek was answered: note whether more messages of the partition are due."""
        if owned.next_due is not None and owned.has_due:
            self._waiting.setdefault(owned.partition, self._clock())
            self.put_off(owned)
        else:
            self._waiting.pop(owned.partition, None)

    def put_off(self, owned: OwnedPartition) -> bool:
        """Let the partition's due messages wait, if a group had its turn just now: it is not ready before they may come. Returns whether they wait."""
        now = self._clock()
        if now >= self._others_until or now >= self._next_group:
            return False
        owned.next_due = owned.server_now() + self._next_group - now
        self._put_off[owned.partition] = owned
        return True

    def limit(self, owned: OwnedPartition, *, is_group: bool = False) -> int:
        """How many the partition's next commit or peek may move. `is_group`: it is a peek for them, at their turn."""
        now = self._clock()
        if now >= self._others_until:
            return MAX_DUE
        since = self._waiting.get(owned.partition)
        if since is not None:  # else few are due, as far as is known
            if not is_group and now < since + PATIENCE_SECONDS:
                return 0
            self._waiting[owned.partition] = now
        return self._few


def _is_due(item: Item) -> bool:
    return isinstance(item, Work) and (item.computation.role == "timer" or item.envelope.headers.eta is not None)
