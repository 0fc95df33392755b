"""Waiting for work without polling: one blocking peek a partition, all of them in one selector.

`BLMOVE queue queue RIGHT RIGHT` waits for a message and leaves the list as it was: taking the oldest message and putting
it back at the same end is one atomic no-op. Its answer is the head of the queue.
Source: Redis documentation of LMOVE/BLMOVE, "if source and destination are the same".
"""

from __future__ import annotations

import selectors
import socket
from contextlib import suppress
from typing import Any

import redis

from celery_partitions.store.names import Names

#: How long one blocking peek waits at the server. Long, so that an idle worker is quiet; bounded, so that a connection
#: that died silently is noticed.
BLOCK_SECONDS = 30


class BlockingRead:
    """The blocking peeks of one worker. Used by the loop's thread; `wake` by any."""

    def __init__(self, client: redis.Redis, names: Names) -> None:
        self.client, self.names = client, names
        self._selector = selectors.DefaultSelector()
        self._waker, self._woken = socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._peeks: dict[str, Any] = {}

    def wake(self) -> None:
        """End the wait at once."""
        with suppress(OSError):  # full: it is awake already; closed: nobody waits
            self._waker.send(b"!")

    def wait(self, partitions: list[str], seconds: float | None) -> dict[str, bytes | redis.ResponseError | None]:
        """Wait until a queue of `partitions` has a message, `wake`, or `seconds`; returns partition → oldest message.

        With `seconds` 0 nothing waits, and a `wake` stays for the next wait. None for a partition whose peek ended with nothing; the server's refusal where its queue can't be peeked (another type
        lies there). Raises redis-py's errors and OSError when a connection broke.
        """
        for partition in partitions:
            if partition not in self._peeks:
                self._begin(partition)
        found: dict[str, bytes | redis.ResponseError | None] = {}
        for event, _ in self._selector.select(seconds):
            if event.data is None:
                if seconds != 0:
                    self._drain()
            else:
                found[event.data] = self._end(event.data)
        return found

    def is_watching(self, partition: str) -> bool:
        """Whether a blocking peek of the partition is pending."""
        return partition in self._peeks

    def drop(self, partition: str) -> None:
        """No more waiting for a partition: its connection is closed, which ends the peek at the server."""
        connection = self._peeks.pop(partition, None)
        if connection is not None:
            self._selector.unregister(connection._sock)
            connection.disconnect()
            self.client.connection_pool.release(connection)

    def close(self) -> None:
        """End all waiting, for good or until the next `wait`."""
        for partition in list(self._peeks):
            self.drop(partition)

    def destroy(self) -> None:
        """Close everything."""
        self.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _begin(self, partition: str) -> None:
        connection: Any = self.client.connection_pool.get_connection()
        queue = self.names.queue(partition)
        try:
            connection.send_command("BLMOVE", queue, queue, "RIGHT", "RIGHT", BLOCK_SECONDS)
        except BaseException:
            connection.disconnect()
            self.client.connection_pool.release(connection)
            raise
        self._peeks[partition] = connection
        self._selector.register(connection._sock, selectors.EVENT_READ, partition)

    def _end(self, partition: str) -> bytes | redis.ResponseError | None:
        connection = self._peeks.pop(partition)
        self._selector.unregister(connection._sock)
        try:
            message: bytes | None = connection.read_response()
        except redis.exceptions.ReadOnlyError:
            raise  # of the whole server, and not of this queue
        except redis.ResponseError as refusal:
            # A server that becomes a replica ends all peeks so; what it is now is told by the next command.
            return None if str(refusal).startswith("UNBLOCKED") else refusal
        except BaseException:
            connection.disconnect()
            raise
        finally:
            self.client.connection_pool.release(connection)
        return message

    def _drain(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass
