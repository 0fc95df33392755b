"""Notices that something other than this worker takes messages out of a partition's queue, and logs it once a minute.

Usually that is a Celery worker whose app has no `install`: kombu takes messages and puts them back in the wrong place. Only the owner of a
partition removes messages from its queue, in commits; everyone else only adds some. So there are two signs:

- A commit finds other messages at the head of the queue than those that this worker has read.
- A queue that was empty got a message, and is empty again although this worker has committed nothing. This proves nothing if the server has
  other databases: it notifies of their changes, too, and a queue of the same name may be in one of them.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

from celery_partitions.store.commits import Reply
from celery_partitions.store.names import Names
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition

logger = logging.getLogger("celery.worker.partitions")

#: The time between two log lines, and the time in which messages must vanish this often from empty queues. A server whose table of
#: tracked keys is full reports a change that was none, so one time proves nothing.
LOG_SECONDS, VANISHED = 60.0, 3


class ForeignConsumers:
    """Used by the loop's thread. `on_removal(owned)` is called for each sign. `is_shared`: whether the server has other databases."""

    def __init__(
        self, names: Names, clock: Callable[[], float], on_removal: Callable[[OwnedPartition], None], is_shared: Callable[[], bool]
    ) -> None:
        self.names, self.clock, self.on_removal, self.is_shared = names, clock, on_removal, is_shared
        self._counts: dict[str, int] = {}
        self._vanished: dict[str, list[float]] = {}
        self._logged_at: float | None = None

    def commit_refused(self, owned: OwnedPartition, batch: Batch, reply: Reply) -> None:
        """After a commit was answered with `moved`."""
        if batch.mailbox_of is None and reply.commit_number == owned.commit_number:
            self._note(owned)

    def peeked(self, owned: OwnedPartition, reply: Reply) -> None:
        """After a peek of a partition whose empty queue had changed, with the same commit number as before."""
        owned.had_message = False
        if reply.messages or reply.paused:
            return
        now = self.clock()
        times = [*self._vanished.get(owned.partition, ()), now]
        self._vanished[owned.partition] = [time for time in times if now - time < LOG_SECONDS][-VANISHED:]
        if len(self._vanished[owned.partition]) < VANISHED:
            return
        if self.is_shared():
            del self._vanished[owned.partition]
        else:
            self._note(owned)

    def _note(self, owned: OwnedPartition) -> None:
        self.on_removal(owned)
        self._counts[owned.partition] = self._counts.get(owned.partition, 0) + 1
        now = self.clock()
        if self._logged_at is not None and now - self._logged_at < LOG_SECONDS:
            return
        self._logged_at = now
        counts, self._counts = self._counts, {}
        text = (
            "partitions: something other than this worker removes messages from %s (noticed: %d); their order is lost. "
            "`celery -A APP partitions doctor` names the workers that consume these queues. Stop them, or add install(app) to their app"
        )
        queues = ", ".join(self.names.queue_name(partition) for partition in sorted(counts, key=lambda partition: (len(partition), partition)))
        logger.error(text, queues, sum(counts.values()), extra=log_fields(owned.partition))
