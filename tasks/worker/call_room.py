"""How many calls may be in flight in a worker process, and how many are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from celery_partitions.model.computation import Computation
from celery_partitions.model.in_flight import BATCH_SECONDS, LONGEST_SECONDS
from celery_partitions.worker.key_runs import KeyRun
from celery_partitions.worker.partition_calls import OpenBatch
from celery_partitions_config.settings import Settings

#: At most this many times `concurrency` calls are handed to the call thread.
MAX_AHEAD = 8


class CallRoom:
    """One for all partitions of a process. Only the loop's thread uses it."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        #: Calls that were handed to the call thread and have not ended, by stage, and the bytes of all.
        self.counts = Counter[str]()
        self.bytes = 0
        #: How many times `concurrency` calls are handed over at once, by stage.
        self._ahead: dict[Computation, int] = {}

    def limit(self, stage: Computation) -> int:
        """How many calls of a stage may be in flight in this process."""
        return stage.concurrency or self.settings.concurrency

    def size(self, stage: Computation) -> int:
        """How many calls of a stage may be handed to the call thread. More than may run, if they are short: then it need not wait for the
        loop between them."""
        return self.limit(stage) * self._ahead.get(stage, 1)

    def free(self, stage: Computation, begun: int = 0) -> int:
        """How many more calls of a stage may be handed over, after `begun` more."""
        return self.size(stage) - self.counts[stage.name] - begun

    def has_bytes(self, more: int = 0) -> bool:
        """Whether messages and states of `more` bytes fit, besides those in flight."""
        return self.bytes + more <= self.settings.bytes_in_flight

    def add(self, runs: Iterable[KeyRun]) -> None:
        for run in runs:
            self.counts[run.stage.name] += 1
            self.bytes += run.size

    def release(self, run: KeyRun) -> None:
        """A run uses its room no more."""
        if not run.is_over:
            run.is_over = True
            self.counts[run.stage.name] -= 1
            self.bytes -= run.size

    def note_closed(self, opened: OpenBatch, now: float) -> None:
        """A batch is committed `now`. Learn from it how many calls to hand over."""
        stage = next((run.stage for run in opened.runs.values()), None)
        if stage is None:
            return
        ahead, seconds = self._ahead.get(stage, 1), now - opened.began
        one_after_another = max(1.0, opened.handed_over / self.limit(stage))
        if opened.left > 0:
            ahead = 1
        elif seconds > LONGEST_SECONDS / 2:
            ahead = max(1, ahead // 2)
        elif seconds / one_after_another < BATCH_SECONDS and len(opened.runs) * 2 > self.limit(stage):
            ahead = min(ahead * 2, MAX_AHEAD)
        self._ahead[stage] = ahead
