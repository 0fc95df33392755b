"""Runs what Celery's own code runs in a partition's turn, at least once: plain tasks, and follow-ups of messages."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from celery_partitions.model.items import Item, PlainTask
from celery_partitions.model.outcome import Outcome
from celery_partitions.results.follow_ups import FollowUps, is_follow_up
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.plain_tasks import PlainTaskRun, outcome_of

logger = logging.getLogger("celery.worker.partitions")

#: A plain Celery task that takes longer is logged. The time of five batches of a busy partition.
SLOW_TASK_SECONDS = 1.0


class CeleryTasks:
    """Made once per loop and used by its thread."""

    def __init__(
        self, follow_ups: FollowUps, run_plain_task: Callable[[bytes], PlainTaskRun], clock: Callable[[], float]
    ) -> None:
        self.follow_ups, self.run_plain_task, self.clock = follow_ups, run_plain_task, clock
        #: Plain tasks that were already logged as slow.
        self._slow: set[str] = set()

    def run(self, owned: OwnedPartition, items: Sequence[Item]) -> Outcome:
        """Run the plain task that is the first item, or the follow-ups at the start of `items`."""
        item = items[0]
        if is_follow_up(item):
            return self.follow_ups.run(items)
        assert isinstance(item, PlainTask)
        began = self.clock()
        run = self.run_plain_task(item.raw)
        self._warn_if_slow(owned, item, self.clock() - began)
        return outcome_of(run, item)

    def _warn_if_slow(self, owned: OwnedPartition, item: PlainTask, seconds: float) -> None:
        """Warn once per task name: all partitions of a worker wait while it runs a plain task."""
        name = item.headers.task
        if seconds > SLOW_TASK_SECONDS and name not in self._slow:
            self._slow.add(name)
            text = "partition %s: the plain task %s took %.1f s; every partition of this worker waited. Send it to a separate queue"
            logger.warning(text, owned.partition, name, seconds, extra=log_fields(owned.partition, task=name))
