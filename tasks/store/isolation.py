"""Finds poison messages: those that kill workers or can't be interrupted.

A worker that dies leaves no message. So the next owner notes in Redis which messages it is about to run. It begins with groups of
messages, which costs almost nothing. If that worker dies too, the next owner reads in its note which group was running. That owner then
runs the messages of the group one by one, each with its own note.
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
    """The messages noted by one call, and the history of the first one."""

    #: The number of messages, from the oldest on, that were noted and must run now.
    count: int
    #: How many workers died while they ran the first message.
    deaths: int
    #: How often the first message stopped its whole process until the lease ended.
    stalls: int
    #: The error, if the first message exceeded its time limit and its worker had to be replaced.
    hang: str | None

    @property
    def has_history(self) -> bool:
        """Whether something happened while the first message ran before."""
        return bool(self.deaths or self.stalls or self.hang)


def begin_isolated_try(
    client: redis.Redis, names: Names, lease: Lease, digests: Sequence[str], largest: int, largest_again: int = 1
) -> IsolatedTry | None:
    """Note the next messages, by their `digest_of`. Returns None if another owner has taken over.

    At most `largest` messages without a history are noted together; or `largest_again` over which one worker died. Any other message with a
    history is noted alone. `largest_again` is 0: a message with a history is not noted.
    """
    status, count, before = script("begin_isolated_try").run(
        client, [names.meta(lease.partition), names.isolation(lease.partition)], [lease.token, largest, largest_again, *digests]
    )
    if status == b"fenced":
        return None
    text = before.decode("utf-8", "replace")
    if text.startswith("hang:"):
        return IsolatedTry(count, 0, 0, text.removeprefix("hang:"))
    deaths, stalls = text.split(":")
    return IsolatedTry(count, int(deaths), int(stalls), None)


def forgive(client: redis.Redis, names: Names, lease: Lease, digests: Iterable[str], *, stalled: bool) -> int:
    """Undo the suspicion that a worker died while it ran these messages. That worker calls this if it is alive and only lost its lease.
    `stalled`: the whole process had stopped meanwhile."""
    changed: int = script("forgive").run(client, [names.isolation(lease.partition)], [lease.token, int(stalled), *digests])
    return changed


def note_hang(client: redis.Redis, names: Names, lease: Lease, raw: bytes, why: str, isolate_messages: int) -> bool:
    """Note that the message `raw` exceeded its time limit. Returns False if another owner has taken over. Called right before the process
    is replaced."""
    return bool(
        script("note_hang").run(
            client,
            [names.meta(lease.partition), names.isolation(lease.partition)],
            [lease.token, digest_of(raw), why, isolate_messages],
        )
    )
