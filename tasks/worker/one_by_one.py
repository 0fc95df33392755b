"""After a worker died: its unit's next messages are run alone, each noted in Redis before it is begun, to find the one."""

from __future__ import annotations

from contextlib import suppress

import redis

from celery_partitions.store.client import UNWELL
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of
from celery_partitions.store.tries import begin_try, forgive
from celery_partitions.worker.lane import Batch, Lane


class LeaseLost(Exception):
    """Another worker has taken the unit over."""


def alone(client: redis.Redis, names: Names, lane: Lane, batch: Batch, deaths: int) -> Batch:
    """The batch, or only its first message while the lane's messages are suspect. `deaths`: so many workers may die over one
    message, the first of them when nobody knew over which. Raises `LeaseLost`."""
    if not lane.suspect or not batch.messages:
        return batch
    first = batch.messages[0]
    before = begin_try(client, names, lane.lease, first)
    if before is None:
        raise LeaseLost
    lane.trying = digest_of(first)
    condemned = None
    if deaths and before.deaths >= max(1, deaths - 1):
        condemned = f"{before.deaths + 1} workers died while they ran it (PARTITIONS_DEATHS)"
    return Batch(
        [first],
        batch.mailbox_of,
        batch.attempt,
        batch.length,
        alone=True,
        condemned=condemned,
        failed=before.hang,
    )


def outlived(client: redis.Redis, names: Names, lane: Lane) -> None:
    """The lane's lease is lost, and this worker lives: it did not end over the message that it had begun alone. Where Redis does
    not answer, the message keeps a death too many."""
    if lane.trying is not None:
        with suppress(redis.ResponseError, *UNWELL):
            forgive(client, names, lane.lease, lane.trying)
