"""Waits for messages without polling, in one selector with the pipe that wakes the loop.

Usually one connection waits for all partitions of a worker (`tracked_read`). If the server or its ACL does not allow that, each idle
partition has its own connection: `BLMOVE queue queue RIGHT RIGHT` waits for a message and leaves the list unchanged, because it
puts the oldest message back at the same end. Source: Redis documentation of LMOVE, "if source and destination are the same".
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import redis

from celery_partitions.store.names import Names
from celery_partitions.worker.tracked_read import NotOffered, TrackedRead

logger = logging.getLogger("celery.worker.partitions")

#: How long one BLMOVE waits at the server. Long, so that an idle worker causes little load; bounded, so that a silently dead
#: connection is noticed.
BLOCK_SECONDS = 30

Found = dict[str, bytes | redis.ResponseError | None]


class BlockingRead:
    """Waits for one worker. Used by the loop's thread; any thread may call `wake`."""

    def __init__(
        self,
        client: redis.Redis,
        names: Names,
        clock: Callable[[], float] = time.monotonic,
        selector: selectors.BaseSelector | None = None,
        waker: tuple[socket.socket, socket.socket] | None = None,
    ) -> None:
        """`waker`: two connected sockets; a byte sent to the first ends a wait on the second."""
        self.client, self.names, self.clock = client, names, clock
        self._selector = selector or selectors.DefaultSelector()
        self._waker, self._woken = waker or socket.socketpair()
        self._waker.setblocking(False)
        self._woken.setblocking(False)
        self._selector.register(self._woken, selectors.EVENT_READ, None)
        self._tracked: TrackedRead | None = TrackedRead(client, names, self._selector, clock)
        #: Without tracking: the connection that waits for each partition.
        self._peeks: dict[str, Any] = {}

    def wake(self) -> None:
        """End the wait immediately."""
        with suppress(OSError):  # full: the loop is already awake; closed: nothing waits
            self._waker.send(b"!")

    def wait(self, partitions: list[str], seconds: float) -> Found:
        """Wait until a queue of `partitions` has a message, `wake`, or `seconds`; returns partition → oldest message.

        With `seconds` 0 it does not wait, and a `wake` is kept for the next call. A partition maps to None if its queue must be peeked,
        or to the server's error if its queue cannot be read (wrong type). Raises redis-py's errors and OSError if a connection breaks.
        """
        until = self.clock() + seconds
        while True:
            self._begin(partitions)
            found: Found = {}
            left = max(0.0, until - self.clock())
            woken = False
            for event, _ in self._selector.select(left if self._tracked is None else min(left, self._tracked.patience_seconds())):
                if event.data is None:
                    woken = True
                elif isinstance(event.data, TrackedRead):
                    found |= event.data.read()
                else:
                    found[event.data] = self._end(event.data)
            if self._tracked is not None:
                self._tracked.check_alive()
            if woken and seconds != 0:
                self._drain()
            if found or woken or self.clock() >= until:
                return found

    @property
    def is_tracking(self) -> bool:
        """Whether one connection waits for all partitions. Then `wait` finds None only for a queue that got a message."""
        return self._tracked is not None

    def is_watching(self, partition: str) -> bool:
        """Whether a message on the partition would end the wait."""
        return partition in self._peeks or (self._tracked is not None and self._tracked.is_watching(partition))

    def drop(self, partition: str) -> None:
        """Stop waiting for a partition."""
        if self._tracked is not None:
            self._tracked.drop(partition)
        connection = self._peeks.pop(partition, None)
        if connection is not None:  # closing it ends the BLMOVE at the server
            self._selector.unregister(connection._sock)
            connection.disconnect()
            self.client.connection_pool.release(connection)

    def close(self) -> None:
        """Close all waiting connections. The next `wait` opens new ones."""
        if self._tracked is not None:
            self._tracked.close()
        for partition in list(self._peeks):
            self.drop(partition)

    def destroy(self) -> None:
        """Close everything for good."""
        self.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _begin(self, partitions: list[str]) -> None:
        if self._tracked is not None:
            try:
                self._tracked.watch(partitions)
            except NotOffered as refusal:
                logger.info("partitions: using one connection per idle partition, because %s", refusal)
                self._tracked = None
        if self._tracked is None:
            for partition in partitions:
                if partition not in self._peeks:
                    self._begin_peek(partition)

    def _begin_peek(self, partition: str) -> None:
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
            raise  # an error of the whole server, not of this queue
        except redis.ResponseError as refusal:
            # A server that becomes a replica ends all peeks with UNBLOCKED; the next command shows what it is now.
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
