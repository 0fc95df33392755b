"""After a worker died: records in Redis which messages run next, to find the one that kills workers."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import redis

from celery_partitions.store.isolation import IsolatedTry, begin_isolated_try, forgive
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of
from celery_partitions.worker.batch import Batch, Verdict
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions_config.settings import Settings

#: The largest group that is recorded together. A smaller one costs more commits after every crash. If a second worker dies over a group, its
#: messages run alone: so a larger one costs more commits then.
LARGEST_GROUP = 500
#: A message that stalls its whole process beyond a lease this often becomes a dead letter. After the first stall, only its group is known.
STALLS_ALLOWED = 3


class LeaseLost(Exception):
    """Another worker has taken over the partition."""


def alone(client: redis.Redis, names: Names, owned: OwnedPartition, batch: Batch, settings: Settings) -> Batch:
    """The batch. While the partition isolates messages: only the messages that were recorded now. Raises `LeaseLost`."""
    if not owned.to_isolate or not batch.messages or batch.condemned is not None:
        return batch
    # A group's death counts for each of its messages, so the last one must be over the message alone. With a limit of two, both are:
    # a worker may be killed from outside just while an innocent message runs.
    largest = LARGEST_GROUP if settings.max_worker_crashes > 2 else 1
    digests = [digest_of(raw) for raw in batch.messages[:largest]]
    tried = begin_isolated_try(client, names, owned.lease, digests, largest)
    if tried is None:
        raise LeaseLost
    owned.trying = digests[: tried.count]
    return replace(
        batch,
        messages=batch.messages[: tried.count],
        noted=owned.trying,
        next_group=1 if tried.has_history else largest,
        condemned=verdict_on(tried, settings),
        failed=tried.hang,
    )


def verdict_on(tried: IsolatedTry, settings: Settings, *, more: int = 0) -> Verdict | None:
    """Why the first message must not run any more. `more`: that many more deaths are allowed, in groups. The death after which the partition
    began to note messages counts for none of them."""
    if tried.stalls >= STALLS_ALLOWED:
        text = (
            f"it stalled its whole worker process for longer than a lease ({settings.lease_seconds:g} s), {tried.stalls} times: "
            "its code holds Python's interpreter lock, as a regular expression or a C function may"
        )
        return Verdict("stalls-the-worker", text)
    if settings.max_worker_crashes and tried.deaths >= settings.max_worker_crashes + more:
        died = f"{tried.deaths} workers died or hung while they" if tried.deaths > 1 else "a worker died or hung while it"
        return Verdict("kills-the-worker", f"{died} ran it (PARTITIONS_MAX_WORKER_CRASHES)")
    return None


def end_try(client: redis.Redis, names: Names, owned: OwnedPartition) -> None:
    """Take back the notes of messages that run no more, though no commit has ended their isolation: it was refused, or there was none. Else
    the death of this worker would count for them, whatever it died of."""
    if owned.trying and (owned.calls is None or not owned.calls.has_suspects):
        forgive(client, names, owned.lease, owned.trying, stalled=False)
        owned.trying = []


class Withdrawal(NamedTuple):
    """A death to take back that counts for the recorded messages: their partition's lease is lost, but this worker is alive."""

    lease: Lease
    digests: list[str]
    stalled: bool

    @classmethod
    def of(cls, owned: OwnedPartition, *, stalled: bool) -> Withdrawal:
        """`stalled`: the whole process had stopped."""
        return cls(owned.lease, owned.trying + ([] if owned.calls is None else owned.calls.noted_by_runs()), stalled)

    def make(self, client: redis.Redis, names: Names) -> None:
        forgive(client, names, self.lease, self.digests, stalled=self.stalled)
