"""After a worker died: the next messages are noted in Redis before they are run, to find the one that it died over."""

from __future__ import annotations

from contextlib import suppress

import redis

from celery_partitions.store.client import UNWELL
from celery_partitions.store.isolation import IsolatedTry, begin_isolated_try, forgive
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of
from celery_partitions.worker.owned import Batch, OwnedPartition, Verdict
from celery_partitions_config.settings import Settings

#: The largest group that is noted at once. Its messages run alone when a worker died over it; a smaller one would cost more commits.
LARGEST_GROUP = 200
#: So often a message may stop its whole process for longer than a lease. The next owner knows of the first time only which group it was.
STALLS_ALLOWED = 3


class LeaseLost(Exception):
    """Another worker has taken the partition over."""


def alone(client: redis.Redis, names: Names, owned: OwnedPartition, batch: Batch, settings: Settings) -> Batch:
    """The batch; while the owned partition's messages are suspect, only those of it that were noted now. Raises `LeaseLost`."""
    if not owned.to_isolate or not batch.messages or batch.condemned is not None:
        return batch
    # Of PARTITIONS_MAX_WORKER_CRASHES deaths the first names nobody, and the second a group: with fewer than three every message runs alone.
    largest = LARGEST_GROUP if settings.max_worker_crashes > 2 else 1
    digests = [digest_of(raw) for raw in batch.messages[:largest]]
    tried = begin_isolated_try(client, names, owned.lease, digests, largest)
    if tried is None:
        raise LeaseLost
    owned.trying = digests[: tried.count]
    return Batch(
        batch.messages[: tried.count],
        batch.mailbox_of,
        batch.attempt,
        batch.length,
        noted=owned.trying,
        alone=tried.has_history or largest == 1,
        condemned=_condemned(tried, settings),
        failed=tried.hang,
    )


def _condemned(tried: IsolatedTry, settings: Settings) -> Verdict | None:
    """Why the first message must not run any more."""
    if tried.stalls >= STALLS_ALLOWED:
        text = (
            f"it stopped its whole worker process for longer than a lease ({settings.lease_seconds:g} s), {tried.stalls} times: "
            "it holds Python's interpreter lock, as a regular expression or a C function may"
        )
        return Verdict("stalls-the-worker", text)
    if settings.max_worker_crashes and tried.deaths >= max(1, settings.max_worker_crashes - 1):
        return Verdict("kills-the-worker", f"{tried.deaths + 1} workers died or stood still while they ran it (PARTITIONS_MAX_WORKER_CRASHES)")
    return None


def outlived(client: redis.Redis, names: Names, owned: OwnedPartition, *, stalled: bool) -> None:
    """The owned partition's lease is lost, and this worker lives: it did not end over the messages that it had noted. Where Redis does
    not answer, they keep a death too many."""
    if owned.trying:
        with suppress(redis.ResponseError, *UNWELL):
            forgive(client, names, owned.lease, owned.trying, stalled=stalled)
