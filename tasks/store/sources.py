"""What Redis holds of a source's process: its lease, and how far it is. Messages and position are written in one script."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

from celery_partitions.store.commands import declare, refused_keys
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script

PushStatus = Literal["ok", "already", "fenced", "moved", "wrongtype"]

#: A process that has no lease is remembered so long after its last push: longer than it is told to try again.
RUN_SECONDS = 24 * 3600


@dataclass(frozen=True, slots=True)
class Hold:
    """The answer to a process that wants to read a source."""

    #: Of the lease; 0: another process has it.
    token: int
    #: Until the lease ends, this process's or the other's.
    left_seconds: float
    #: How many pushes the source has had.
    number: int
    #: What the last push left; empty at first.
    position: bytes
    #: Nothing more will come.
    ended: bool


def hold_source(client: redis.Redis, names: Names, source: str, process: str, lease_seconds: float) -> Hold:
    """Take the lease of a source, or renew it. Called every third of a lease."""
    token, left, number, position, ended = script("hold_source").run(
        client, [names.source(source)], [process, round(lease_seconds * 1000)]
    )
    return Hold(int(token), left / 1000, int(number), position, bool(ended))


def leave_source(client: redis.Redis, names: Names, source: str, token: int) -> bool:
    """Give the lease up; False when another process has it."""
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
    """Write a source's messages and its position; sending the same again changes nothing and answers `already`.

    `key`: of `Names.source`. `token`: of the lease; None where many processes read, each with a key of its own. Returns the status, and for
    `wrongtype` the key that holds another type, or may not be written.
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


#: An entry of a stream: its id, and its fields one after the other, field and value; None: it was deleted.
Entry = tuple[bytes, list[bytes] | None]


def make_group(client: redis.Redis, stream: str, source: str) -> None:
    """The consumer group of a source, from the stream's beginning on. Harmless when it is there."""
    try:
        client.xgroup_create(stream, source, id="0", mkstream=True)
    except redis.ResponseError as error:
        if not str(error).startswith("BUSYGROUP"):
            raise


def read_stream(
    client: redis.Redis, names: Names, source: str, token: int, stream: str, limit: int, after: bytes
) -> list[Entry] | None:
    """The next entries; None when another process has the lease. `after`: the id of the last entry seen of those that were read before and
    not acknowledged, or `>` for new ones."""
    answer = script("read_stream").run(client, [names.source(source), stream], [token, source, limit, after])
    return None if answer == b"fenced" else [(entry_id, fields) for entry_id, fields in answer]
