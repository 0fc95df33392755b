"""A source's lease and progress in Redis. One script writes a push's messages together with the new position."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

from celery_partitions.store.commands import declare, refused_keys
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

PushStatus = Literal["ok", "already", "fenced", "moved", "wrongtype"]

#: How long a process without a lease is remembered after its last push. Longer than it retries a push.
RUN_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Hold:
    """The answer to a process that wants a source's lease."""

    #: The lease's token. 0: another process has the lease.
    token: int
    #: Time until the lease ends, this process's or the other's.
    left_seconds: float
    #: The number of pushes so far.
    number: int
    #: The position that the last push wrote; empty at first.
    position: bytes
    #: The source has no more input.
    ended: bool


def hold_source(client: redis.Redis, names: Names, source: str, process: str, lease_seconds: float) -> Hold:
    """Take or renew a source's lease. Called every third of a lease."""
    token, left, number, position, ended = script("hold_source").run(
        client, [names.source(source)], [process, round(lease_seconds * 1000)]
    )
    return Hold(int(token), left / 1000, int(number), position, bool(ended))


def leave_source(client: redis.Redis, names: Names, source: str, token: int) -> bool:
    """Release a source's lease. Returns False if another process has it."""
    return bool(script("leave_source").run(client, [names.source(source)], [token]))


def push_from_source(
    client: redis.Redis,
    key: str,
    token: int | None,
    number: int,
    position: bytes,
    commands: Sequence[Sequence[Any]],
    *,
    lease_seconds: float = RUN_SECONDS,
    ends: bool = False,
) -> tuple[PushStatus, str]:
    """Write a source's messages and its position, both or neither. Sending the same push again changes nothing, and the status is `already`.

    `key`: from `Names.source`. `token`: the lease's token; None if several processes read the source, each with its own key. Returns the
    status, and for `wrongtype` the key that has the wrong type or may not be written.
    """
    words: list[Any] = ["" if token is None else token, number, position, round(lease_seconds * 1000), "1" if ends else ""]
    keys: list[Any] = [key]
    declare(commands, keys, words)
    try:
        status, culprit = script("push_from_source").run(client, keys, words)
    except redis.exceptions.NoPermissionError:  # the server checks KEYS before the script begins
        for refused in refused_keys(client, commands):
            return "wrongtype", refused.decode("utf-8", "replace") if isinstance(refused, bytes) else refused
        raise
    return cast(PushStatus, status.decode()), culprit.decode("utf-8", "replace")


#: A stream entry: its id, and a flat list of its fields and values; None if it was deleted.
Entry = tuple[bytes, list[bytes] | None]


def make_group(client: redis.Redis, stream: str, source: str) -> None:
    """Create a source's consumer group, from the start of the stream. Does nothing if it exists."""
    try:
        client.xgroup_create(stream, source, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def read_stream(
    client: redis.Redis, names: Names, source: str, token: int, stream: str, limit: int, after: bytes
) -> list[Entry] | None:
    """The next entries of a stream. None if another process has the lease. `after`: `>` for new entries; to read again entries that were
    read and not acknowledged, the id of the last one seen."""
    answer = script("read_stream").run(client, [names.source(source), stream], [token, source, limit, after])
    return None if answer == b"fenced" else [(entry_id, fields) for entry_id, fields in answer]
