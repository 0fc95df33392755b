"""Waits for messages without polling, in one selector with the pipe that wakes the loop.

Usually one connection waits for all partitions of a worker (`tracked_read`), or one for those on each of several servers. If the server or
its ACL does not allow that, each idle partition has its own connection: `BLMOVE queue queue RIGHT RIGHT` waits for a message and leaves the list unchanged, because it
puts the oldest message back at the same end. Source: Redis documentation of LMOVE, "if source and destination are the same".
"""

from __future__ import annotations

import logging
import selectors
import socket
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import redis
from redis.exceptions import AskError

from celery_partitions.store.client import SERVER_ERRORS
from celery_partitions.store.names import Names
from celery_partitions.store.servers import LOOK_SECONDS, Servers
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
        clock: Callable[[], float],
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
        self._is_tracking = True
        #: Of each server.
        self._tracked: dict[redis.Redis, TrackedRead] = {}
        #: Without tracking: the connection that waits for each partition, and its server.
        self._peeks: dict[str, tuple[Any, redis.Redis]] = {}

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
            found = self._begin(partitions)
            left = max(0.0, until - self.clock()) if not found else 0.0
            woken = False
            for event, _ in self._selector.select(min((left, *self._limits()))):
                if event.data is None:
                    woken = True
                elif isinstance(event.data, TrackedRead):
                    found |= self._with(event.data, event.data.read)
                else:
                    found[event.data] = self._end(event.data)
            for one in list(self._tracked.values()):
                found |= self._with(one, one.check_alive)
            if woken and seconds != 0:
                self._drain()
            if found or woken or self.clock() >= until:
                return found

    @property
    def is_tracking(self) -> bool:
        """Whether one connection waits for all partitions. Then `wait` finds None only for a queue that got a message."""
        return self._is_tracking

    def is_watching(self, partition: str) -> bool:
        """Whether a message on the partition would end the wait."""
        return partition in self._peeks or any(one.is_watching(partition) for one in self._tracked.values())

    def drop(self, partition: str) -> None:
        """Stop waiting for a partition."""
        for one in self._tracked.values():
            one.drop(partition)
        if partition in self._peeks:
            connection, server = self._peeks.pop(partition)
            self._selector.unregister(connection._sock)
            connection.disconnect()  # which ends the BLMOVE at the server
            server.connection_pool.release(connection)

    def close(self) -> None:
        """Close all waiting connections. The next `wait` opens new ones."""
        for one in self._tracked.values():
            one.close()
        for partition in list(self._peeks):
            self.drop(partition)

    def destroy(self) -> None:
        """Close everything for good."""
        self.close()
        self._selector.close()
        self._waker.close()
        self._woken.close()

    def _begin(self, partitions: list[str]) -> Found:
        """Wait for these partitions. Returns those whose server can't be reached, which must be peeked."""
        found: Found = {}
        for server, some in self._by_server(partitions, found).items():
            if self._is_tracking:
                reader = self._tracked.get(server)
                if reader is None:
                    reader = self._tracked[server] = TrackedRead(server, self.names, self._selector, self.clock)
                try:
                    found |= self._with(reader, partial(reader.watch, some), some)
                    continue
                except NotOffered as refusal:
                    logger.info("partitions: using one connection per idle partition, because %s", refusal)
                    self.close()
                    self._is_tracking, self._tracked = False, {}
            for partition in some:
                if partition not in self._peeks:
                    self._begin_peek(partition, server)
        return found

    def _limits(self) -> Iterator[float]:
        """The seconds after which to look again, whatever comes."""
        for one in self._tracked.values():
            yield one.patience_seconds()
        if isinstance(self.client, Servers):
            yield LOOK_SECONDS

    def _by_server(self, partitions: list[str], found: Found) -> dict[redis.Redis, list[str]]:
        if not isinstance(self.client, Servers):
            return {self.client: partitions}
        self.client.look_again_sometimes()
        servers: dict[redis.Redis, list[str]] = {}
        for partition in partitions:
            try:
                server = self.client.at(self.names.queue(partition))
            except redis.ConnectionError:
                found[partition] = None
                continue
            servers.setdefault(server, []).append(partition)
            for other, reader in self._tracked.items():
                if other is not server:
                    reader.drop(partition)  # its slot has moved
        return servers

    def _with(self, reader: TrackedRead, act: Callable[[], Found | None], wanted: Iterable[str] = ()) -> Found:
        """Use a reader. If one of several servers fails, only its partitions must be peeked; a lone server's error is raised."""
        client = self.client
        if not isinstance(client, Servers):
            return act() or {}
        try:
            found = act() or {}
        except SERVER_ERRORS:
            client.lost(reader.client)
            partitions = [*reader.watched(), *wanted]
            reader.close()
            return dict.fromkeys(partitions)
        if any(isinstance(one, AskError) for one in found.values()):  # also MOVED
            client.look_again()
            return {partition: None if isinstance(one, AskError) else one for partition, one in found.items()}
        return found

    def _begin_peek(self, partition: str, server: redis.Redis) -> None:
        connection: Any = server.connection_pool.get_connection()
        queue = self.names.queue(partition)
        try:
            connection.send_command("BLMOVE", queue, queue, "RIGHT", "RIGHT", BLOCK_SECONDS)
        except BaseException:
            connection.disconnect()
            server.connection_pool.release(connection)
            raise
        self._peeks[partition] = connection, server
        self._selector.register(connection._sock, selectors.EVENT_READ, partition)

    def _end(self, partition: str) -> bytes | redis.ResponseError | None:
        connection, server = self._peeks.pop(partition)
        self._selector.unregister(connection._sock)
        try:
            message: bytes | None = connection.read_response()
        except redis.exceptions.ReadOnlyError:
            raise  # an error of the whole server, not of this queue
        except redis.ResponseError as refusal:
            # A server that becomes a replica ends all peeks with UNBLOCKED; the next command shows what it is now. With MOVED ends a peek
            # whose slot has left.
            return None if str(refusal).startswith("UNBLOCKED") or isinstance(refusal, AskError) else refusal
        except BaseException:
            connection.disconnect()
            raise
        finally:
            server.connection_pool.release(connection)
        return message

    def _drain(self) -> None:
        try:
            while self._woken.recv(4096):
                pass
        except BlockingIOError:
            pass
