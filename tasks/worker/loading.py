"""What a batch needs from Redis before its step: the unit's parked keys, and the states that are not in memory."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping

import redis

from celery_partitions.model.computation import Computation
from celery_partitions.model.reading import Item
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.names import Names
from celery_partitions.store.parking import mailbox_lengths, read_parked
from celery_partitions.store.states import is_wrong_type, load_slots
from celery_partitions.worker.lane import Lane
from celery_partitions.worker.logs import told

logger = logging.getLogger("celery.worker.partitions")


def load_states(
    client: redis.Redis,
    names: Names,
    codec: StateCodec,
    computations: Mapping[str, Computation],
    lane: Lane,
    items: Iterable[Item],
) -> None:
    """In one round trip, or none."""
    missing = lane.cache.missing(items)
    if missing:
        wanted = {name: (computations[name], keys) for name, keys in missing.items()}
        lane.cache.add(load_slots(client, names, codec, lane.unit, wanted))


def load_parked(client: redis.Redis, names: Names, lane: Lane) -> None:
    """What Redis says of the unit's parked keys; where that can't be read, none is known, and that is said."""
    try:
        parked = read_parked(client, names, lane.unit)
    except redis.ResponseError as error:
        if not is_wrong_type(error):  # busy, say: without them a key's later messages would overtake those that wait
            raise
        text = "partition %s: its parked keys can't be read: %s; mend or delete it"
        logger.error(text, lane.unit, error, extra=told(lane.unit))  # noqa: TRY400
        parked = {}
    lane.take_parked(parked, mailbox_lengths(client, names, lane.unit, parked))
