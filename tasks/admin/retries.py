"""What operators retried: how far each retry of dead letters is, and how many of its messages became dead letters again.

A retry of many dead letters takes a while. Its progress is in Redis, so every process can show it, also after the one that retries was
killed. A retried message that fails again becomes a dead letter with the same message id.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping
from typing import Any, cast

import msgspec
import redis

from celery_partitions.store.dead_letters import DeadLetter
from celery_partitions.store.decoding import decoded
from celery_partitions.store.names import Names
from celery_partitions.store.server import server_time

#: How long a retry is remembered, and how many are. The ids of its messages take 100 bytes each of the server's memory.
KEPT_SECONDS, MAX_KEPT, MAX_IDS = 86_400, 10, 10_000
#: How often progress is written.
WRITE_SECONDS = 0.5


class Retry(msgspec.Struct):
    """One retry of dead letters."""

    id: str
    #: Seconds since the epoch, by the server's clock.
    at: float
    by: str
    #: How many dead letters were chosen, and how many of them were looked at so far.
    chosen: int
    done: int = 0
    #: How they were chosen: the fields of the query.
    query: dict[str, Any] = {}
    #: All that were chosen were looked at.
    ended: bool = False


_decode = msgspec.json.Decoder(Retry).decode


class Retries:
    """The last retries of a group."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names

    def begin(self, chosen: int, query: Mapping[str, Any], *, by: str) -> Progress:
        """Forget old retries, and remember one that begins now."""
        now = server_time(self.client)
        known = self._read()
        old = [one.id for number, one in enumerate(known) if number >= MAX_KEPT - 1 or one.at < now - KEPT_SECONDS]
        if old:
            self.client.hdel(self.names.retries, *old)
        progress = Progress(self, Retry(f"{now * 1000:.0f}", now, by, chosen, query=dict(query)))
        progress.write()
        return progress

    def last(self, died: Iterable[tuple[float, str]]) -> list[dict[str, Any]]:
        """The retries of the last day, newest first, each with how many of its messages became dead letters again. `died`: of each dead letter,
        when it died and the id of its message."""
        known = [one for one in self._read() if one.at >= server_time(self.client) - KEPT_SECONDS]
        oldest = min((one.at for one in known), default=math.inf)
        lately = [one for one in died if one[0] >= oldest]
        found = []
        for one in known:
            later = [message_id for at, message_id in lately if at >= one.at]
            again = cast(list[int], self.client.smismember(self.names.retried(one.id), later)) if later else []
            found.append({**msgspec.structs.asdict(one), "failed_again": sum(again)})
        return found

    def _read(self) -> list[Retry]:
        """Newest first."""
        rows = cast(dict[bytes, bytes], self.client.hgetall(self.names.retries))
        return sorted((one for row in rows.values() if (one := decoded(_decode, row)) is not None), key=lambda one: -one.at)


class Progress:
    """Writes how far a retry is."""

    def __init__(self, retries: Retries, retry: Retry) -> None:
        self.retries, self.retry = retries, retry
        self._ids: list[str] = []
        self._written_at = time.monotonic()

    def passed(self, dead_letter: DeadLetter) -> None:
        """This one was looked at."""
        if dead_letter.message_id and self.retry.done < MAX_IDS:
            self._ids.append(dead_letter.message_id)
        self.retry.done += 1
        if time.monotonic() - self._written_at >= WRITE_SECONDS:
            self.write()

    def end(self) -> None:
        self.retry.ended = True
        self.write()

    def write(self) -> None:
        names, ids = self.retries.names, self.retries.names.retried(self.retry.id)
        with self.retries.client.pipeline(transaction=False) as pipe:
            pipe.hset(names.retries, self.retry.id, msgspec.json.encode(self.retry))
            if self._ids:
                pipe.sadd(ids, *self._ids)
                pipe.expire(ids, KEPT_SECONDS)
            pipe.execute()
        self._ids, self._written_at = [], time.monotonic()


def described(query: Mapping[str, Any]) -> str:
    """How the dead letters of a retry were chosen, in words."""
    return ", ".join(f"{name} {value}" for name, value in query.items()) or "all"
