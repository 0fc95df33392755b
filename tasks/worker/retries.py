"""The retries of several parked keys in one turn of the loop, which share a commit.

Each key's messages are stepped as if they were alone. So a failure undoes nothing of another key, and a key that fails again is parked again.
What needs more than its own key's states (a line, a hot key, a batch computation, a call that waits) is retried alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from celery_partitions.model.items import Item, Work
from celery_partitions.model.outcome import Outcome
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.owned import OwnedPartition

Step = Callable[[OwnedPartition, Batch, list[Item]], Outcome]

#: How many parked keys share a commit at most. With more of them, a retry hardly becomes cheaper, and more runs again after a crash.
MAX_TOGETHER = 100


@dataclass(slots=True)
class Retry:
    """The messages of one parked key in a turn."""

    batch: Batch
    items: Sequence[Item]
    outcome: Outcome = field(default_factory=Outcome)

    @property
    def key(self) -> str:
        assert self.batch.mailbox_of is not None
        return self.batch.mailbox_of

    @property
    def is_independent(self) -> bool:
        """Whether its step needs nothing but the states of its key, and the loop can make its calls."""
        return all(
            isinstance(item, Work) and item.key == self.key and item.computation.flush is None and item.computation.waiting is None
            for item in self.items
        )


def together(batch: Batch, parts: Sequence[Batch]) -> Batch:
    """The batch of a parked key, with those of the others that are retried in the same turn. `parts`: all of them, its own first."""
    return replace(batch, messages=[raw for part in parts for raw in part.messages], parts=parts)


def one_if_one(batch: Batch) -> Batch:
    """The batch; without the others, if it became so short that only messages of the first key are left."""
    return replace(batch, parts=()) if batch.parts and len(batch.messages) <= len(batch.parts[0].messages) else batch


def step_each(
    owned: OwnedPartition, batch: Batch, items: Sequence[Item], step: Step, clock: Callable[[], float], seconds: float
) -> list[Retry]:
    """Step the parts of a batch, the most overdue key first, for these seconds. Returns the retries that were stepped. None, if the first key must
    be retried alone: its turn is the next one."""
    retries, at = [], 0
    for part in batch.parts:
        own = items[at : at + len(part.messages)]
        if own:  # the batch may have become shorter since it was read
            retries.append(Retry(part, own))
        at += len(part.messages)
    owned.alone.update(retry.key for retry in retries if not retry.is_independent)
    done: list[Retry] = []
    end, share = clock() + seconds, 0.0
    for retry in retries:
        retry.batch.seconds = end - clock()
        is_full = bool(done) and (retry.batch.seconds < 0 or share >= 1 or done[-1].outcome.pause)
        if is_full or retry.key in owned.alone:
            break
        retry.outcome = step(owned, retry.batch, list(retry.items))
        share += retry.outcome.share
        done.append(retry)
    return done


def merged(retries: Sequence[Retry]) -> Outcome:
    """What the retries of a turn have decided together."""
    out = Outcome()
    for retry in retries:
        one = retry.outcome
        one.ends = [*one.began[1:], one.ended] if one.done else []
        out.taken += one.taken
        out.absorb(one)
        out.mailed.update(one.mailed)
        out.effects += one.effects
        out.late += one.late
    return out
