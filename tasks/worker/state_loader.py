"""What a batch needs from Redis before its step: the partition's parked keys, and the states that are not in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import Item
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import mailbox_lengths, read_parked
from celery_partitions.store.states import is_wrong_type, load_slots
from celery_partitions.worker.logs import log_fields
from celery_partitions.worker.owned import OwnedPartition

logger = logging.getLogger("celery.worker.partitions")


def load_states(
    client: redis.Redis,
    names: Names,
    codec: StateCodec,
    computations: Mapping[str, Computation],
    owned: OwnedPartition,
    items: Iterable[Item],
) -> None:
    """In one round trip, or none."""
    missing = owned.cache.missing(items)
    if missing:
        wanted = {name: (computations[name], keys) for name, keys in missing.items()}
        owned.cache.add(load_slots(client, names, codec, owned.partition, wanted))


def load_parked(client: redis.Redis, names: Names, owned: OwnedPartition) -> None:
    """What Redis says of the partition's parked keys; where that can't be read, none is known, and that is said."""
    try:
        parked = read_parked(client, names, owned.partition)
    except redis.ResponseError as error:
        if not is_wrong_type(error):  # busy, say: without them a key's later messages would overtake those that wait
            raise
        text = "partition %s: its parked keys can't be read: %s; mend or delete it"
        logger.error(text, owned.partition, error, extra=log_fields(owned.partition))  # noqa: TRY400
        parked = {}
    owned.take_parked(parked, mailbox_lengths(client, names, owned.partition, parked))
