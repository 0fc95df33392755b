"""Loads what a batch needs from Redis before its step: parked keys, ids seen before, and states that are not in memory."""

from __future__ import annotations

import logging
from collections.abc import Mapping

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.deduplication import drop_duplicates, ids_to_look_for
from celery_partitions.model.items import Item
from celery_partitions.model.mailboxes import waits_in
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.deduplication import read_seen_ids
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import ParkedKeys, look_up_parked, read_due, read_parked
from celery_partitions.store.states import is_wrong_type, load_slots, state_sizes
from celery_partitions.worker.batch import Batch
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import DUE_PAGE, OwnedPartition

#: Up to this many states are read without asking for their sizes first.
FEW_KEYS = 8
#: An unread state is assumed to be at most this many times as large as the largest state read so far.
UNSEEN_MAY_BE_LARGER = 16
#: A message of a pipeline rarely passes more stateful stages before its next hop. Sizes are added up only above this bound.
MAX_STATES_OF_A_MESSAGE = 4
#: More parked keys than this are not all loaded. Loading this many takes about 0.1 s.
MAX_LOADED = 5000

logger = logging.getLogger("celery.worker.partitions")


def load_states(
    client: redis.Redis,
    names: Names,
    codec: StateCodec,
    computations: Mapping[str, Computation],
    owned: OwnedPartition,
    items: list[Item],
    max_bytes: int,
) -> list[Item]:
    """Load the missing states in at most one round trip. Returns the items to step: the first ones whose states fit `max_bytes`.

    If states of this partition may be large, Redis is first asked for their sizes.
    """
    cache = owned.cache
    missing = cache.missing(items)
    count = sum(map(len, missing.values()))
    if count > FEW_KEYS and (cache.largest is None or count * cache.largest * UNSEEN_MAY_BE_LARGER > max_bytes):
        items = items[: cache.fitting(items, state_sizes(client, names, owned.partition, missing), max_bytes)]
        missing = cache.missing(items)
    if missing:
        wanted = {name: (computations[name], keys) for name, keys in missing.items()}
        cache.add(load_slots(client, names, codec, owned.partition, wanted))
    if cache.largest and len(items) * cache.largest > max_bytes // MAX_STATES_OF_A_MESSAGE:
        items = items[: cache.fitting(items, {}, max_bytes)]
    return items


def load_parked(client: redis.Redis, names: Names, owned: OwnedPartition) -> None:
    """Load the partition's parked keys, or only those with calls in flight, if all would be too many. If their Redis key has the wrong type,
    log that and continue with none."""
    are_all = True
    try:
        found = read_parked(client, names, owned.partition, MAX_LOADED)
        if found is None:
            runs = () if owned.calls is None else [key for key, run in owned.calls.runs.items() if not run.from_queue]
            found, are_all = look_up_parked(client, names, owned.partition, runs), False
    except redis.ResponseError as error:
        if not is_wrong_type(error):  # e.g. BUSY: without the parked keys, later messages of a key would overtake waiting ones
            raise
        text = "partition %s: cannot read its parked keys: %s. Delete or repair that Redis key"
        logger.error(text, owned.partition, error, extra=log_fields(owned.partition))  # noqa: TRY400
        found = ParkedKeys({}, {})
    owned.take_parked(*found, are_all=are_all)


def load_due(client: redis.Redis, names: Names, owned: OwnedPartition) -> None:
    """Load the next parked keys that are due, because not all parked keys are in memory."""
    found, owned.unread_due = read_due(client, names, owned.partition, owned.unread_due, owned.parked, DUE_PAGE)
    owned.learn_parked(*found)


def load_parked_of(client: redis.Redis, names: Names, owned: OwnedPartition, items: list[Item]) -> None:
    """Load those of a batch's keys and lines that are parked, if not all parked keys are in memory."""
    if owned.knows_all_parked:
        return
    assert owned.reading is not None
    places = dict.fromkeys(where for item in items for where in waits_in(item, owned.reading.place) if where not in owned.parked)
    if places:
        owned.learn_parked(*look_up_parked(client, names, owned.partition, places))


def drop_known_duplicates(
    client: redis.Redis,
    names: Names,
    computations: Mapping[str, Computation],
    owned: OwnedPartition,
    batch: Batch,
    items: list[Item],
) -> list[Item]:
    """Turn duplicates for computations with `deduplicate` into skipped items, and return all items.

    `owned.seen` keeps the ids found, for the commit. Messages of a key's mailbox were checked when they were in the queue.
    """
    owned.seen = {}
    if (batch.mailbox_of is not None and batch.line is None) or all(one.deduplicate_seconds is None for one in computations.values()):
        return items
    wanted = {name: (computations[name], ids) for name, ids in ids_to_look_for(items).items()}
    if not wanted:
        return items
    owned.seen = read_seen_ids(client, names, owned.partition, wanted)
    return drop_duplicates(items, {name: one.ids for name, one in owned.seen.items()})
