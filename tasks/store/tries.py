"""Messages that are run one by one after a worker died, or could not be interrupted: which of them was it?

A worker's death leaves no word. So the next owner runs what may have been under way alone, message by message, each noted in
Redis before it is begun; a note that an earlier owner left tells which message its worker ended over.
"""

from __future__ import annotations

from dataclasses import dataclass

import redis

from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of, script


@dataclass(frozen=True, slots=True)
class Tried:
    """What came of a message before."""

    #: So many workers ended while they ran it alone.
    deaths: int
    #: It exceeded its time limit, and its worker had to be replaced.
    hang: str | None


def begin_try(client: redis.Redis, names: Names, lease: Lease, raw: bytes) -> Tried | None:
    """Note that `raw` is about to be run alone; None when another owner has taken over."""
    status, before = script("begin_try").run(
        client, [names.tokens, names.tries(lease.unit)], [lease.unit, lease.token, digest_of(raw)]
    )
    if status == b"fenced":
        return None
    text = before.decode("utf-8", "replace")
    return Tried(0, text.removeprefix("hang:")) if text.startswith("hang:") else Tried(int(text), None)


def forgive(client: redis.Redis, names: Names, lease: Lease, digest: str) -> bool:
    """Take back that a worker ended over a message: called by that worker, which had only lost its lease."""
    return bool(script("forgive").run(client, [names.tries(lease.unit)], [lease.token, digest]))


def note_hang(client: redis.Redis, names: Names, lease: Lease, raw: bytes, why: str, suspect_messages: int) -> bool:
    """Note that `raw` exceeded its time limit; whether the lease still held. Called right before the process is replaced."""
    return bool(
        script("note_hang").run(
            client,
            [names.tokens, names.tries(lease.unit), names.facts(lease.unit)],
            [lease.unit, lease.token, digest_of(raw), why, suspect_messages],
        )
    )
