"""Finding the message that kills workers, or that can't be interrupted.

A worker's death leaves no word. So the next owner notes in Redis which messages it is about to run: first in groups, which costs
nearly nothing. A note that an earlier owner left names the group in which its worker ended; the messages of that group are run
alone, each with a note of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import redis

from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.scripts import digest_of, script


@dataclass(frozen=True, slots=True)
class IsolatedTry:
    """What was noted now, and what came of the first message before."""

    #: How many messages, from the oldest on, were noted, and are to be run.
    count: int
    #: How many workers ended while they ran the first message.
    deaths: int
    #: How often the first message stopped its whole process until the lease had ended.
    stalls: int
    #: The first message exceeded its time limit, and its worker had to be replaced.
    hang: str | None

    @property
    def has_history(self) -> bool:
        """The first message is run alone because of what came of it before."""
        return bool(self.deaths or self.stalls or self.hang)


def begin_isolated_try(client: redis.Redis, names: Names, lease: Lease, digests: Sequence[str], largest: int) -> IsolatedTry | None:
    """Note the next messages, by their `digest_of`, at most `largest` together; None when another owner has taken over."""
    status, count, before = script("begin_isolated_try").run(
        client, [names.meta(lease.partition), names.isolation(lease.partition)], [lease.token, largest, *digests]
    )
    if status == b"fenced":
        return None
    text = before.decode("utf-8", "replace")
    if text.startswith("hang:"):
        return IsolatedTry(count, 0, 0, text.removeprefix("hang:"))
    deaths, stalls = text.split(":")
    return IsolatedTry(count, int(deaths), int(stalls), None)


def forgive(client: redis.Redis, names: Names, lease: Lease, digests: Iterable[str], *, stalled: bool) -> int:
    """Take back that a worker ended over these messages. That worker calls it, which had only lost its lease. `stalled`: because the
    whole process stood still."""
    changed: int = script("forgive").run(client, [names.isolation(lease.partition)], [lease.token, int(stalled), *digests])
    return changed


def note_hang(client: redis.Redis, names: Names, lease: Lease, raw: bytes, why: str, isolate_messages: int) -> bool:
    """Note that `raw` exceeded its time limit; whether the lease still held. Called right before the process is replaced."""
    return bool(
        script("note_hang").run(
            client,
            [names.meta(lease.partition), names.isolation(lease.partition)],
            [lease.token, digest_of(raw), why, isolate_messages],
        )
    )
