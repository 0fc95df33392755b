"""One connection that waits for messages on all queues of a worker.

Redis remembers which keys a connection with `CLIENT TRACKING ON` has read, and notifies it once when one of them changes
(client-side caching). So an empty queue is read once, and its next message triggers a notification. This needs protocol 3, which
sends notifications on the same connection. Source: Redis documentation, "Client-side caching reference".
"""

from __future__ import annotations

import selectors
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import redis

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names

#: A queue is read again after this long, in case a notification was lost.
READ_AGAIN_SECONDS = 30.0


class NotOffered(Exception):
    """The server or its ACL does not allow tracking; the text says why."""


@dataclass(frozen=True, slots=True)
class _Changed:
    """Keys that changed; None: any key may have changed, because a database was emptied."""

    keys: list[bytes] | None


class TrackedRead:
    """One server's queues. Used by the loop's thread. Registers its connection with `selector`."""

    def __init__(
        self, client: redis.Redis, names: Names, selector: selectors.BaseSelector, clock: Callable[[], float]
    ) -> None:
        """`client`: of one server."""
        self.client, self.names, self.selector, self.clock = client, names, selector, clock
        self._connection: Any = None
        #: Its socket as registered: redis-py forgets it when the connection breaks.
        self._socket: Any = None
        #: Partitions whose queue was requested, in the order of the expected answers; None: ignore that answer.
        self._asked: deque[str | None] = deque()
        self._asked_at = 0.0
        #: Partitions whose queue was empty, and when it was read.
        self._empty: dict[str, float] = {}
        self._partition_of: dict[bytes, str] = {}

    def watch(self, partitions: list[str]) -> None:
        """Make `read` report messages on these partitions. Raises `NotOffered`, and redis-py's errors."""
        now = self.clock()
        fresh = [one for one in partitions if one not in self._asked and now - self._empty.get(one, float("-inf")) > READ_AGAIN_SECONDS]
        if not fresh:
            return
        if self._connection is None:
            self._connect()
        for partition in fresh:
            self._partition_of[self.names.queue(partition).encode()] = partition
            self._empty.pop(partition, None)
        asks = [("LRANGE", self.names.queue(partition), -1, -1) for partition in fresh]
        if not self._asked:
            self._asked_at = now
        self._connection.send_packed_command(self._connection.pack_commands(asks))
        self._asked.extend(fresh)

    def read(self) -> dict[str, bytes | redis.ResponseError | None]:
        """What has arrived, without waiting: partition → its oldest message, None if its queue changed, or the server's error.

        When a database was emptied, all queues are read again by the next `watch`.
        """
        found: dict[str, bytes | redis.ResponseError | None] = {}
        while self._connection.can_read(timeout=0):
            try:
                answer = self._connection.read_response(push_request=True)
            except SERVER_ERRORS:
                raise
            except redis.ResponseError as refusal:
                answer = refusal
            match answer:
                case _Changed(None):
                    self._empty.clear()
                case _Changed(list() as keys):
                    found |= dict.fromkeys(self._news_of(keys))
                case list() | redis.ResponseError():
                    self._asked_at = self.clock()
                    partition = self._asked.popleft()
                    if partition is None:
                        continue
                    if isinstance(answer, redis.ResponseError):
                        found[partition] = answer
                    elif answer:
                        found[partition] = answer[0]
                    else:
                        self._empty[partition] = self._asked_at
        return found

    def patience_seconds(self) -> float:
        """How long the caller may wait before it must call `watch` and `check_alive` again."""
        return float(self._connection.socket_timeout or READ_AGAIN_SECONDS) if self._asked else READ_AGAIN_SECONDS

    def check_alive(self) -> None:
        """Raise `TimeoutError` if an answer is overdue."""
        if self._asked and self.clock() - self._asked_at > self.patience_seconds():
            raise redis.TimeoutError("no answer on the connection that waits for messages")

    def is_watching(self, partition: str) -> bool:
        return partition in self._empty or partition in self._asked

    def watched(self) -> list[str]:
        """The partitions for which it waits."""
        return [*self._empty, *(one for one in self._asked if one is not None)]

    def drop(self, partition: str) -> None:
        """Stop watching a partition."""
        self._empty.pop(partition, None)
        if partition in self._asked:
            self._asked = deque(None if one == partition else one for one in self._asked)

    def close(self) -> None:
        """Close the connection. The next `watch` opens a new one."""
        connection, self._connection = self._connection, None
        self._asked.clear()
        self._empty.clear()
        if connection is not None:
            self.selector.unregister(self._socket)
            connection.disconnect()
            self.client.connection_pool.release(connection)

    def _news_of(self, keys: list[bytes]) -> list[str]:
        """The partitions whose empty queue has changed. A queue that was requested again since is left out: its answer is pending."""
        changed = [self._partition_of.get(key, "") for key in keys]
        return [partition for partition in changed if self._empty.pop(partition, None) is not None]

    @staticmethod
    def _check_protocol(connection: Any) -> None:
        if str(getattr(connection, "protocol", 2)) != "3":
            raise NotOffered("the connection does not speak protocol 3")

    def _connect(self) -> None:
        connection: Any = self.client.connection_pool.get_connection()
        try:
            self._check_protocol(connection)
            connection.send_command("CLIENT", "TRACKING", "ON")
            connection.read_response()
        except BaseException as error:
            connection.disconnect()
            self.client.connection_pool.release(connection)
            if isinstance(error, redis.ResponseError) and not isinstance(error, SERVER_ERRORS):
                raise NotOffered(f"the server refuses CLIENT TRACKING ({error})") from error
            raise
        connection._parser.set_invalidation_push_handler(lambda push: _Changed(push[1]))
        self._connection, self._socket = connection, connection._sock
        self.selector.register(self._socket, selectors.EVENT_READ, self)
