"""TCP sources: one process listens, splits the input into frames, and sends their messages to the partition queues.

One thread reads all connections in turn, which keeps the order of each connection's frames. A new connection is read only after
the older ones, of every source in the process, have no input left that was sent before the new one was accepted.
"""

from __future__ import annotations

import logging
import math
import selectors
import socket
import struct
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import redis

from celery_partitions.pipeline.frames import FrameError, FrameSplitter
from celery_partitions.sources.feed import Feed
from celery_partitions.sources.stop_signal import Stop

logger = logging.getLogger("celery.partitions.source")

#: The maximum number of bytes read from one connection in one turn.
READ_BYTES = 262_144
#: An older connection that was silent for this long has no earlier input left. Longer than a round trip, in which the sender's
#: system transmits what did not fit into the window.
QUIET_SECONDS = 0.05
#: The longest wait for a connection that is never silent, if it was read empty meanwhile.
MAX_HELD_SECONDS = 1.0
#: More than the two systems buffer for one connection. A sender that sent this much since then has no earlier input left.
MAX_KEPT_BYTES = 16_000_000
#: How long a stopping process reads what has already arrived.
LAST_READ_SECONDS = 3.0
#: The pause after `accept` failed (for example without free file descriptors).
REST_SECONDS = 0.1

#: Linux records when input arrived, in nanoseconds. Python has no name for this option (asm-generic/socket.h).
SO_TIMESTAMPNS = 35
_TIMESPEC = struct.Struct("@ll")


@dataclass(slots=True, eq=False)
class Connection:
    """One sender."""

    feed: Feed
    socket: socket.socket
    peer: str
    splitter: FrameSplitter
    accepted: float
    #: Older connections that may still have input sent before this one was accepted, each with the bytes it had sent by then.
    behind: list[tuple[Connection, int]] = field(default_factory=list)
    #: When input last arrived, when the connection was last read empty, and how many bytes have arrived.
    received_at: float = 0.0
    emptied: float = 0.0
    bytes: int = 0
    is_open: bool = True

    def waits(self, now: float) -> bool:
        """Whether an older connection must be read first."""
        self.behind = [(older, had) for older, had in self.behind if older.may_be_behind(self.accepted, had, now)]
        return bool(self.behind)

    def may_be_behind(self, accepted: float, had: int, now: float) -> bool:
        """Whether this connection may have input left that was sent before time `accepted`, when it had sent `had` bytes.

        `now`: when the sockets were last polled.
        """
        if not self.is_open or self.bytes - had > MAX_KEPT_BYTES:
            return False
        if self.behind:
            return True
        if now - max(self.received_at, accepted) >= QUIET_SECONDS:
            return False
        return now - accepted < MAX_HELD_SECONDS or self.emptied <= accepted


class TCPSources:
    """The TCP sources of one process."""

    def __init__(self, feeds: Sequence[Feed], stop: Stop) -> None:
        self.feeds, self.stop = feeds, stop
        self.connections: list[Connection] = []
        self.selector = selectors.DefaultSelector()
        for feed in feeds:
            self.selector.register(feed.listener, selectors.EVENT_READ)
            if len(feeds) > 1 and sys.platform == "linux":
                with suppress(OSError):
                    feed.listener.setsockopt(socket.SOL_SOCKET, SO_TIMESTAMPNS, 1)
        self.selector.register(stop.reader, selectors.EVENT_READ)

    def run(self, say_line: Callable[[str], None]) -> None:
        """Serve until the process is asked to stop."""
        for feed in self.feeds:
            say_line(f"listening on {feed.address}")
        try:
            while not self.stop.requested:
                self.turn()
            self.end()
        except (redis.RedisError, OSError):
            for feed in self.feeds:
                logger.error("source %r: %d messages that were read but not written to Redis are lost", feed.name, feed.outbox.count)  # noqa: TRY400
            raise
        finally:
            self.close()
        for feed in self.feeds:
            logger.info("source %r: ended; %d messages were sent", feed.name, feed.outbox.sent)

    def turn(self) -> None:
        """Wait for input, and read each connection that has some, in the order in which they were accepted."""
        held = any(connection.behind for connection in self.connections)
        ready = {key.fileobj for key, _ in self.selector.select(QUIET_SECONDS if held else None)}
        now = time.monotonic()
        if self.stop.requested:
            return
        for connection in [one for one in self.connections if one.socket in ready]:
            self.read(connection)
        self.send()
        self.accept([feed for feed in self.feeds if feed.listener in ready])
        for connection in self.connections:
            if connection.behind and not connection.waits(now):
                self.selector.register(connection.socket, selectors.EVENT_READ)

    def accept(self, feeds: Sequence[Feed]) -> None:
        """Accept waiting connections, in the order in which they were made as far as that is known."""
        come = [(feed, accepted, peer) for feed in feeds for accepted, peer in self.accepted(feed)]
        if len(feeds) > 1:
            come.sort(key=lambda one: _first_came(one[1]))
        for feed, accepted, peer in come:
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            connection = Connection(feed, accepted, f"{peer[0]}:{peer[1]}", feed.splitter(), time.monotonic())
            connection.behind = [(older, older.bytes) for older in self.connections]
            self.connections.append(connection)
            if not connection.behind:
                self.selector.register(accepted, selectors.EVENT_READ)

    def accepted(self, feed: Feed) -> list[tuple[socket.socket, Any]]:
        found: list[tuple[socket.socket, Any]] = []
        while True:
            try:
                accepted, peer = feed.listener.accept()
            except BlockingIOError:
                return found
            except OSError as error:
                logger.warning("source %r: cannot accept a connection: %s", feed.name, error)
                self.stop.wait(REST_SECONDS)
                return found
            accepted.setblocking(False)
            found.append((accepted, peer))

    def read(self, connection: Connection) -> bool:
        """Read at most `READ_BYTES` from a connection. False if nothing is left for now."""
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self.drop(connection, f"failed ({error.strerror or error})")
            return False
        connection.received_at = time.monotonic()
        connection.bytes += len(data)
        if len(data) < READ_BYTES:
            connection.emptied = connection.received_at
        if not data:
            self.drop(connection, "was closed")
            return False
        feed = connection.feed
        try:
            payloads = connection.splitter.feed(data)
        except FrameError as error:
            feed.take(error.payloads)
            feed.add_dead_letter(error.rest, f"from {connection.peer}: {error}")
            logger.warning("source %r: closing the connection from %s: %s", feed.name, connection.peer, error)
            self.forget(connection)
            return False
        feed.take(payloads)
        return True

    def send(self) -> None:
        for feed in self.feeds:
            feed.send()

    def drop(self, connection: Connection, why: str) -> None:
        """The sender is gone. An incomplete frame becomes a dead letter."""
        rest = connection.splitter.rest
        if rest:
            connection.feed.add_dead_letter(rest, f"the connection from {connection.peer} {why} after {len(rest)} bytes of an incomplete frame")
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        if connection.socket in self.selector.get_map():
            self.selector.unregister(connection.socket)
        connection.socket.close()
        connection.is_open = False
        self.connections.remove(connection)

    def end(self) -> None:
        """Accept connections that were already made, close the listeners, then read and send what has arrived."""
        self.accept(self.feeds)
        for feed in self.feeds:
            self.selector.unregister(feed.listener)
            feed.listener.close()
        until = time.monotonic() + LAST_READ_SECONDS
        for connection in list(self.connections):
            while connection.is_open and time.monotonic() < until and self.read(connection):
                pass
            if connection.is_open and connection.splitter.waiting:
                logger.warning(
                    "source %r: %s had sent %d bytes of an incomplete frame when this process stopped",
                    connection.feed.name,
                    connection.peer,
                    connection.splitter.waiting,
                )
            self.send()

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()
        for feed in self.feeds:
            feed.listener.close()
        self.selector.close()


def _first_came(connection: socket.socket) -> float:
    """When the first unread input arrived, by the system's clock. Infinite without input; 0 if the system does not record it.

    Connections are sorted by this time; among zeros the order of the sources stays.
    """
    try:
        _, notes, _, _ = connection.recvmsg(1, socket.CMSG_SPACE(_TIMESPEC.size), socket.MSG_PEEK)
    except BlockingIOError:
        return math.inf
    except OSError:
        return 0.0
    times = [_TIMESPEC.unpack(data) for _, kind, data in notes if kind == SO_TIMESTAMPNS and len(data) == _TIMESPEC.size]
    return times[0][0] * 1e9 + times[0][1] if times else 0.0
