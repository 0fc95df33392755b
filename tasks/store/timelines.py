"""The timelines of keys in Redis: what the last commits changed, one JSON a line, newest first. Written in the commit, if it is switched on."""

from __future__ import annotations

from typing import cast

import msgspec
import redis

from celery_partitions.model.keys import key_bytes
from celery_partitions.model.timeline import MAX_CHANGE_BYTES, KeyChange
from celery_partitions.store.decoding import decoded
from celery_partitions.store.names import Names
from celery_partitions.store.states import is_wrong_type

_decode = msgspec.json.Decoder(KeyChange).decode

#: The longest timeline of a key: a change of the largest size fits.
MAX_TIMELINE_BYTES = 2 * MAX_CHANGE_BYTES


def read_timeline(client: redis.Redis, names: Names, partition: str, key: str) -> list[KeyChange]:
    """The last changes of a key, newest first. Skips what another version wrote, and the oldest one if it was cut. A hash of another type has
    none."""
    try:
        text = client.hget(names.timelines(partition), cast(str, key_bytes(key)))
    except redis.ResponseError as error:
        if not is_wrong_type(error):
            raise
        return []
    lines = cast(bytes, text or b"").split(b"\n")
    return [change for line in lines if (change := decoded(_decode, line)) is not None]
