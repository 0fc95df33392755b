"""After a worker died: the next messages are noted in Redis before they are run, to find the one that it died over."""

from __future__ import annotations

from contextlib import suppress

import redis

from celery_partitions.store.client import UNWELL
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of
from celery_partitions.store.tries import Tried, begin_try, forgive
from celery_partitions.worker.lane import Batch, Lane, Verdict
from celery_partitions_config.settings import Settings

#: The largest group that is noted at once. Its messages run alone when a worker died over it; a smaller one would cost more commits.
LARGEST_GROUP = 200
#: So often a message may stop its whole process for longer than a lease. The next owner knows of the first time only which group it was.
STALLS_ALLOWED = 2


class LeaseLost(Exception):
    """Another worker has taken the unit over."""


def alone(client: redis.Redis, names: Names, lane: Lane, batch: Batch, settings: Settings) -> Batch:
    """The batch; while the lane's messages are suspect, only those of it that were noted now. Raises `LeaseLost`."""
    if not lane.suspect or not batch.messages or batch.condemned is not None:
        return batch
    # Of PARTITIONS_DEATHS deaths the first names nobody, and the second a group: with fewer than three every message runs alone.
    largest = LARGEST_GROUP if settings.deaths > 2 else 1
    digests = [digest_of(raw) for raw in batch.messages[:largest]]
    tried = begin_try(client, names, lane.lease, digests, largest)
    if tried is None:
        raise LeaseLost
    lane.trying = digests[: tried.count]
    return Batch(
        batch.messages[: tried.count],
        batch.mailbox_of,
        batch.attempt,
        batch.length,
        noted=lane.trying,
        alone=tried.has_history or largest == 1,
        condemned=_condemned(tried, settings),
        failed=tried.hang,
    )


def _condemned(tried: Tried, settings: Settings) -> Verdict | None:
    """Why the first message must not run any more."""
    if tried.stalls >= STALLS_ALLOWED:
        text = (
            f"it stopped its whole worker process for longer than a lease ({settings.lease_seconds:g} s), {tried.stalls} times: "
            "it holds Python's interpreter lock, as a regular expression or a C function may"
        )
        return Verdict("stalls-the-worker", text)
    if settings.deaths and tried.deaths >= max(1, settings.deaths - 1):
        return Verdict("kills-the-worker", f"{tried.deaths + 1} workers died or stood still while they ran it (PARTITIONS_DEATHS)")
    return None


def outlived(client: redis.Redis, names: Names, lane: Lane, *, stalled: bool) -> None:
    """The lane's lease is lost, and this worker lives: it did not end over the messages that it had noted. Where Redis does
    not answer, they keep a death too many."""
    if lane.trying:
        with suppress(redis.ResponseError, *UNWELL):
            forgive(client, names, lane.lease, lane.trying, stalled=stalled)
