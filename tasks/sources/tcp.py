"""A TCP source: listens, cuts what comes into frames, and gives their messages to the partition queues.

One thread reads all connections in turn, so that the frames of one keep their order. A connection that was accepted later is not read
before the older ones have nothing left of what was sent before it came.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field

from tasks.model.computation import Computation
from tasks.model.errors import SetupError, say, trace_of
from tasks.pipeline.framing import FrameError, FrameSplitter
from tasks.pipeline.sources import TCPSourceConfig
from tasks.producer.installation import Installation
from tasks.producer.making import random_id, random_ids
from tasks.sources.outbox import Outbox, Run
from tasks.sources.stopping import Stop

logger = logging.getLogger("celery.partitions.source")

#: Of one connection in one turn.
READ_BYTES = 262_144
#: Ids made at once.
IDS = 1000
#: An older connection from which nothing came for so long has nothing left that was sent before; longer than a
#: round trip, in which the sender's system sends on what it had no room for.
QUIET_SECONDS = 0.05
#: One that never falls quiet is waited for so long, if it was read empty meanwhile.
MOST_HELD_SECONDS = 1.0
#: More than two systems keep of one connection: who has sent so much since has nothing left that was sent before.
MOST_KEPT_BYTES = 16_000_000
#: After the process was told to end, what has come is read for so long.
LAST_READ_SECONDS = 1.0
#: After the system refused a connection (no file descriptors, say).
REST_SECONDS = 0.1


@dataclass(slots=True, eq=False)
class Connection:
    """One sender."""

    socket: socket.socket
    peer: str
    splitter: FrameSplitter
    accepted: float
    #: Older connections that may have more to read that was sent before this one came, each with what it had sent then.
    behind: list[tuple[Connection, int]] = field(default_factory=list)
    #: When something came last, when it was read empty last, and how many bytes came.
    heard: float = 0.0
    emptied: float = 0.0
    bytes: int = 0
    is_open: bool = True

    def waits(self, now: float) -> bool:
        """Whether an older connection goes first."""
        self.behind = [(older, had) for older, had in self.behind if older.may_be_behind(self.accepted, had, now)]
        return bool(self.behind)

    def may_be_behind(self, accepted: float, had: int, now: float) -> bool:
        """Whether there may be more to read of what was sent before a moment, when it had sent `had` bytes. `now`: when it was
        last looked whether there is something to read."""
        if not self.is_open or self.bytes - had > MOST_KEPT_BYTES:
            return False
        if self.behind:
            return True
        if now - max(self.heard, accepted) >= QUIET_SECONDS:
            return False
        return now - accepted < MOST_HELD_SECONDS or self.emptied <= accepted


class TCPSource:
    """Listens when made. Raises `SetupError` where it can't."""

    def __init__(self, installation: Installation, computation: Computation, config: TCPSourceConfig, stop: Stop) -> None:
        self.name, self.config, self.stop = computation.name, config, stop
        self.most_bytes = installation.settings.message_bytes
        names = installation.group.names
        self.outbox = Outbox(installation, computation, Run(names.source(self.name, uuid.uuid4().hex)), stop)
        self.connections: list[Connection] = []
        self._ids, self._next_id = "", IDS
        try:
            family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
            self.listener = socket.create_server((config.host, config.port), family=family, backlog=128)
        except OSError as error:
            raise SetupError(f"source {self.name!r} can't listen on {config.host}:{config.port}: {error.strerror or error}") from error
        self.listener.setblocking(False)
        self.selector = selectors.DefaultSelector()
        self.selector.register(self.listener, selectors.EVENT_READ)
        self.selector.register(stop.reader, selectors.EVENT_READ)

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"{host}:{port}"

    def run(self, say_line: Callable[[str], None]) -> None:
        """Until the process is told to end."""
        say_line(f"listening on {self.address}")
        try:
            while not self.stop.asked:
                self.turn()
            self.end()
        finally:
            self.close()
        logger.info("source %r: ended; %d messages were sent", self.name, self.outbox.sent)

    def turn(self) -> None:
        """Wait for something, and read each connection that has something, in the order they were accepted."""
        held = any(connection.behind for connection in self.connections)
        ready = {key.fileobj for key, _ in self.selector.select(QUIET_SECONDS if held else None)}
        now = time.monotonic()
        if self.stop.asked:
            return
        for connection in [one for one in self.connections if one.socket in ready]:
            self.read(connection)
        self.send()
        if self.listener in ready:
            self.accept()
        for connection in self.connections:
            if connection.behind and not connection.waits(now):
                self.selector.register(connection.socket, selectors.EVENT_READ)

    def accept(self) -> None:
        while True:
            try:
                accepted, peer = self.listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                logger.warning("source %r: a connection can't be accepted: %s", self.name, error)
                self.stop.wait(REST_SECONDS)
                return
            accepted.setblocking(False)
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            splitter = FrameSplitter(self.config.decoder, self.most_bytes)  # type: ignore[arg-type]
            connection = Connection(accepted, f"{peer[0]}:{peer[1]}", splitter, time.monotonic())
            connection.behind = [(older, older.bytes) for older in self.connections]
            self.connections.append(connection)
            if not connection.behind:
                self.selector.register(accepted, selectors.EVENT_READ)

    def read(self, connection: Connection) -> bool:
        """Take what has come, a bounded part of it; False when there is nothing left for now."""
        try:
            data = connection.socket.recv(READ_BYTES)
        except BlockingIOError:
            return False
        except OSError as error:
            self.drop(connection, f"broke ({error.strerror or error})")
            return False
        connection.heard = time.monotonic()
        connection.bytes += len(data)
        if len(data) < READ_BYTES:
            connection.emptied = connection.heard
        if not data:
            self.drop(connection, "was closed")
            return False
        try:
            payloads = connection.splitter.feed(data)
        except FrameError as error:
            self.take(error.payloads)
            self.outbox.bury(error.rest, self.next_id(), "bad-frame", f"from {connection.peer}: {error}")
            logger.warning("source %r: the connection of %s is closed: %s", self.name, connection.peer, error)
            self.forget(connection)
            return False
        self.take(payloads)
        return True

    def take(self, payloads: list[bytes]) -> None:
        decode, outbox = self.config.decoder, self.outbox
        for payload in payloads:
            try:
                message = decode(payload)
            except (Exception, SystemExit) as error:
                outbox.bury(payload, self.next_id(), "not-decoded", f"the decoder raised {say(error)}", trace_of(error))
            else:
                if message is not None:
                    outbox.put(message, self.next_id(), lambda payload=payload: payload)  # type: ignore[misc]
            if outbox.is_full:
                outbox.send()

    def next_id(self) -> bytes:
        if self._next_id == IDS:
            self._ids, self._next_id = random_ids(IDS), 0
        self._next_id += 1
        return random_id(self._ids, self._next_id - 1)

    def send(self) -> None:
        if self.outbox.count:
            self.outbox.send()

    def drop(self, connection: Connection, why: str) -> None:
        """The sender is gone: what it left is no frame."""
        rest = connection.splitter.rest
        if rest:
            text = f"the connection of {connection.peer} {why} after {len(rest)} bytes of a frame"
            self.outbox.bury(rest, self.next_id(), "bad-frame", text)
        self.forget(connection)

    def forget(self, connection: Connection) -> None:
        if connection.socket in self.selector.get_map():
            self.selector.unregister(connection.socket)
        connection.socket.close()
        connection.is_open = False
        self.connections.remove(connection)

    def end(self) -> None:
        """Accept nothing more; read what has come already, and send it."""
        self.selector.unregister(self.listener)
        self.listener.close()
        until = time.monotonic() + LAST_READ_SECONDS
        for connection in list(self.connections):
            while connection.is_open and time.monotonic() < until and self.read(connection):
                pass
            if connection.is_open and connection.splitter.waiting:
                logger.warning(
                    "source %r: %s had sent %d bytes of a frame when this process was told to end",
                    self.name,
                    connection.peer,
                    connection.splitter.waiting,
                )
        self.send()

    def close(self) -> None:
        for connection in self.connections:
            connection.socket.close()
        self.listener.close()
        self.selector.close()
