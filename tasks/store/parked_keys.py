"""Parked keys as they are stored in Redis: a record per key, and the mailbox with its messages."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
import redis

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_bytes, key_text
from celery_partitions.store.names import Names

_json = msgspec.json.Encoder().encode


def park(names: Names, partition: str, key: str, record: ParkedKey) -> list[Any]:
    """The command that parks a key, or updates its record."""
    return ["HSET", names.parked(partition), key_bytes(key), _json(record)]


def unpark(names: Names, partition: str, key: str) -> list[Any]:
    """The command that unparks a key. It belongs to the commit that empties the key's mailbox."""
    return ["HDEL", names.parked(partition), key_bytes(key)]


def read_parked(client: redis.Redis, names: Names, partition: str) -> dict[str, ParkedKey]:
    """The partition's parked keys. Read when a lease begins, and after an operator's change. Otherwise the holder has them in memory."""
    rows = cast(Mapping[bytes, bytes], client.hgetall(names.parked(partition)))
    return {key_text(key): read_record(record) for key, record in rows.items()}


def read_record(record: bytes) -> ParkedKey:
    """Decode a parked key's record. An invalid record counts as due immediately."""
    try:
        return msgspec.json.decode(record, type=ParkedKey)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ParkedKey(due=0.0, attempt=1)


def mailbox_lengths(client: redis.Redis, names: Names, partition: str, keys: Iterable[str]) -> dict[str, int]:
    """The number of messages in each key's mailbox; 0 if the mailbox has another type."""
    wanted = list(keys)
    with client.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.llen(cast(str, names.mailbox(partition, key)))
        lengths = pipe.execute(raise_on_error=False)
    return {key: length if isinstance(length, int) else 0 for key, length in zip(wanted, lengths, strict=True)}


def read_mailbox(client: redis.Redis, names: Names, partition: str, key: str, limit: int) -> tuple[list[bytes], int]:
    """A parked key's oldest messages, oldest first, and the total number of messages in its mailbox."""
    with client.pipeline(transaction=False) as pipe:
        pipe.lrange(cast(str, names.mailbox(partition, key)), -limit, -1)
        pipe.llen(cast(str, names.mailbox(partition, key)))
        raws, length = pipe.execute()
    return raws[::-1], length


def read_mailboxes(
    client: redis.Redis, names: Names, partition: str, keys: Iterable[str], limit: int
) -> dict[str, tuple[list[bytes], int]]:
    """Like `read_mailbox` for several keys, in one round trip. A mailbox of another type counts as empty."""
    wanted = list(keys)
    with client.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.lrange(cast(str, names.mailbox(partition, key)), -limit, -1)
            pipe.llen(cast(str, names.mailbox(partition, key)))
        answers = iter(pipe.execute(raise_on_error=False))
    found = {}
    for key in wanted:
        raws, length = next(answers), next(answers)
        if isinstance(raws, Exception) and not str(raws).startswith("WRONGTYPE"):
            raise raws
        found[key] = (raws[::-1], length) if isinstance(raws, list) else ([], 0)
    return found
