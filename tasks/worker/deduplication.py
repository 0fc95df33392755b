"""Duplicates of a batch, found in Redis and dropped before its computations run."""

from __future__ import annotations

from collections.abc import Mapping

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.deduplication import drop_duplicates, ids_to_look_for
from celery_partitions.model.items import Item
from celery_partitions.store.deduplication import read_seen_ids
from celery_partitions.store.names import Names
from celery_partitions.worker.owned import Batch, OwnedPartition


def drop_known_duplicates(
    client: redis.Redis,
    names: Names,
    computations: Mapping[str, Computation],
    owned: OwnedPartition,
    batch: Batch,
    items: list[Item],
) -> list[Item]:
    """The items, with those skipped whose id was seen, of computations that want that; `lane.seen` is what was found, for the
    commit. Messages of a parked key's mailbox were looked at when they came."""
    owned.seen = {}
    if batch.mailbox_of is not None or all(one.deduplicate_seconds is None for one in computations.values()):
        return items
    wanted = {name: (computations[name], ids) for name, ids in ids_to_look_for(items).items()}
    if not wanted:
        return items
    owned.seen = read_seen_ids(client, names, owned.partition, wanted)
    return drop_duplicates(items, {name: one.ids for name, one in owned.seen.items()})
