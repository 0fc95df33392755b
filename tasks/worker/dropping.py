"""Duplicates of a batch, found in Redis and dropped before its computations run."""

from __future__ import annotations

from collections.abc import Mapping

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.duplicates import drop_duplicates, ids_to_look_for
from celery_partitions.model.reading import Item
from celery_partitions.store.names import Names
from celery_partitions.store.seen import read_seen
from celery_partitions.worker.lane import Batch, Lane


def drop_seen(
    client: redis.Redis,
    names: Names,
    computations: Mapping[str, Computation],
    lane: Lane,
    batch: Batch,
    items: list[Item],
) -> list[Item]:
    """The items, with those skipped whose id was seen, of computations that want that; `lane.seen` is what was found, for the
    commit. Messages of a parked key's mailbox were looked at when they came."""
    lane.seen = {}
    if batch.mailbox_of is not None or all(one.deduplicate_seconds is None for one in computations.values()):
        return items
    wanted = {name: (computations[name], ids) for name, ids in ids_to_look_for(items).items()}
    if not wanted:
        return items
    lane.seen = read_seen(client, names, lane.unit, wanted)
    return drop_duplicates(items, {name: one.ids for name, one in lane.seen.items()})
