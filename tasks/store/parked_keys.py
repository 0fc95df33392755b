"""Parked keys as they are stored in Redis: a record per key, the index of when they are due, and the mailboxes with their messages."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Mapping
from typing import Any, NamedTuple, cast

import msgspec
import redis

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_bytes, key_text
from celery_partitions.store.decoding import decoded
from celery_partitions.store.names import Names

#: Keys in one HMGET.
PAGE = 1000

_json = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(ParkedKey).decode


class ParkedKeys(NamedTuple):
    """Some parked keys of a partition, and the number of messages in each one's mailbox."""

    parked: dict[str, ParkedKey]
    mailbox_lengths: dict[str, int]


def dump_parked(record: ParkedKey) -> bytes:
    """A parked key's record, as Redis stores it."""
    return _json(record)


def due_score(record: ParkedKey) -> int | str:
    """When a parked key is due, as in the index of parked keys: in ms, rounded up, so that a key is never found before it is due."""
    return "+inf" if record.due is None else math.ceil(record.due * 1000)


def read_parked(client: redis.Redis, names: Names, partition: str, limit: int) -> ParkedKeys | None:
    """All parked keys of a partition; None if there are more than `limit`. Then use `read_due` and `look_up_parked`."""
    name = names.parked(partition)
    count = client.hlen(name)
    if count > limit:
        return None
    if not count:
        return ParkedKeys({}, {})
    rows = cast(Mapping[bytes, bytes], client.hgetall(name))
    parked = {key_text(key): read_record(record) for key, record in rows.items()}
    return ParkedKeys(parked, mailbox_lengths(client, names, partition, parked))


def read_due(client: redis.Redis, names: Names, partition: str, since: float, known: Container[str], page: int) -> tuple[ParkedKeys, float]:
    """About a page of the parked keys that are due first, from the time `since` on (seconds since the epoch), without those in `known`.
    Also returns from when on others are due; infinity: there are no others."""
    limit = page
    while True:
        rows = client.zrangebyscore(names.parked_due(partition), math.ceil(since * 1000), "(inf", start=0, num=limit + 1, withscores=True)
        found = cast(list[tuple[bytes, float]], rows)
        keys = [key for encoded, _ in found[:limit] if (key := key_text(encoded)) not in known]
        if keys or len(found) <= limit:
            break
        limit *= 2  # more keys than this are due at the same moment, and their calls are in flight
    following = found[limit][1] / 1000 if len(found) > limit else math.inf
    # A key in the index without a record counts as due now: its mailbox is empty, or its messages decide.
    return _read(client, names, partition, keys, default=ParkedKey(due=since, attempt=1)), following


def look_up_parked(client: redis.Redis, names: Names, partition: str, keys: Iterable[str]) -> ParkedKeys:
    """Those of the keys that are parked."""
    return _read(client, names, partition, keys)


def _read(client: redis.Redis, names: Names, partition: str, keys: Iterable[str], default: ParkedKey | None = None) -> ParkedKeys:
    wanted = list(keys)
    parked: dict[str, ParkedKey] = {}
    for start in range(0, len(wanted), PAGE):
        page = wanted[start : start + PAGE]
        rows = client.hmget(names.parked(partition), [cast(str, key_bytes(key)) for key in page])
        for key, row in zip(page, cast(list[bytes | None], rows), strict=True):
            record = default if row is None else read_record(row)
            if record is not None:
                parked[key] = record
    return ParkedKeys(parked, mailbox_lengths(client, names, partition, parked))


def read_record(record: bytes) -> ParkedKey:
    """Decode a parked key's record. An invalid record counts as due immediately."""
    return decoded(_decode, record) or ParkedKey(due=0.0, attempt=1)


def mailbox_lengths(client: redis.Redis, names: Names, partition: str, keys: Iterable[str]) -> dict[str, int]:
    """The number of messages in each key's mailbox; 0 if the mailbox has another type."""
    wanted = list(keys)
    if not wanted:
        return {}
    with client.pipeline(transaction=False) as pipe:
        for key in wanted:
            pipe.llen(cast(str, names.mailbox(partition, key)))
        lengths = _known(pipe.execute(raise_on_error=False))
    return {key: length if isinstance(length, int) else 0 for key, length in zip(wanted, lengths, strict=True)}


def _known(answers: list[Any]) -> list[Any]:
    """The answers, with errors about a mailbox of another type. Raises any other error: an answer that is not known is no empty mailbox."""
    for answer in answers:
        if isinstance(answer, Exception) and not str(answer).startswith("WRONGTYPE"):
            raise answer
    return answers


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
        answers = iter(_known(pipe.execute(raise_on_error=False)))
    found = {}
    for key in wanted:
        raws, length = next(answers), next(answers)
        found[key] = (raws[::-1], length) if isinstance(raws, list) else ([], 0)
    return found
