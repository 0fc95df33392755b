"""Simulated connections, sockets and selectors, as redis-py and the worker's loop use them.

Everything above them is real: redis-py's client, pipelines and subscriptions, `CommitStore`, `BlockingRead`.
"""

from __future__ import annotations

import selectors
from collections.abc import Callable, Sequence
from copy import copy
from types import SimpleNamespace
from typing import Any

import redis
from redis._parsers import Encoder
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError, TimeoutError
from redis.retry import Retry

from celery_partitions.testing.keyspace import Words
from tests.simulation.server import Session
from tests.simulation.world import OUTSIDE, World, world


def connect(settings: Any) -> redis.Redis:
    """Replaces `celery_partitions.store.client.connect`: returns a client of the simulated server."""
    pool = Pool(world(), settings.redis_timeout_seconds)
    client = copy(_client(pool))  # creating one takes as long as ten requests
    client.connection_pool = pool
    return client


_clients: list[redis.Redis] = []


def _client(pool: Pool) -> redis.Redis:
    if not _clients:
        _clients.append(redis.Redis(connection_pool=pool))  # type: ignore[arg-type]
    return _clients[0]


class Pool:
    """The part of redis-py's pool that its client and the engine use."""

    def __init__(self, of: World, timeout_seconds: float) -> None:
        self.world, self.timeout_seconds = of, timeout_seconds
        self.owner = of.who()
        self.connection_kwargs = {"protocol": 2}
        self._free: list[Connection] = []

    def get_connection(self, *_: Any, **__: Any) -> Connection:
        connection = self._free.pop() if self._free else Connection(self)
        try:
            connection.connect()
            if connection.can_read():  # cut while it was unused
                connection.disconnect()
                connection.connect()
        except BaseException:
            self.release(connection)
            raise
        return connection

    def release(self, connection: Connection) -> None:
        self._free.append(connection)

    def get_encoder(self) -> Encoder:
        return Encoder("utf-8", "strict", False)

    def get_protocol(self) -> int:
        return 2

    def disconnect(self, *_: Any) -> None:
        for connection in self._free:
            connection.disconnect()

    close = reset = disconnect


class Connection:
    """One connection: requests are sent at once, and a read waits for an answer."""

    retry = Retry(NoBackoff(), 0)
    host, port, db, health_check_interval = "simulated", 0, 0, 0
    credential_provider = None

    def __init__(self, pool: Pool) -> None:
        self.pool, self.world, self.socket_timeout = pool, pool.world, pool.timeout_seconds
        self.session: Session | None = None
        self._on_connect: list[Callable[[Connection], None]] = []

    @property
    def _sock(self) -> Connection:
        return self

    @property
    def readable(self) -> bool:
        return self.session is not None and (bool(self.session.outbox) or self.session.cut)

    def connect(self) -> None:
        if self.session is None:
            self.world.check_alive()
            if self.world.server_is_down and self.pool.owner != OUTSIDE:
                raise ConnectionError("Error 111 connecting to the simulated server. Connection refused.")
            if self.world.full_until > self.world.now and self.pool.owner != OUTSIDE:
                raise ConnectionError("max number of clients reached")
            self.session = Session(self.pool.owner)
            self.world.server.sessions.append(self.session)
            for callback in self._on_connect:
                callback(self)

    def disconnect(self, *_: Any, **__: Any) -> None:
        if self.session is not None:
            self.world.hang_up(self.session)
            self.session = None

    def should_reconnect(self) -> bool:
        return False

    def register_connect_callback(self, callback: Callable[[Connection], None]) -> None:
        self._on_connect.append(callback)

    def deregister_connect_callback(self, callback: Callable[[Connection], None]) -> None:
        self._on_connect = [each for each in self._on_connect if each != callback]

    def pack_commands(self, commands: Sequence[Sequence[Any]]) -> list[Words]:
        return [[_word(word) for word in command] for command in commands]

    def pack_command(self, *words: Any) -> list[Words]:
        return [[_word(word) for word in words]]

    def send_packed_command(self, commands: list[Words], check_health: bool = True) -> None:
        self.connect()
        assert self.session is not None
        self.world.check_alive()
        if self.session.cut:
            self.disconnect()
            raise ConnectionError("Error 32 while writing to socket. Broken pipe.")
        self.session.inbox.extend(commands)

    def send_command(self, *words: Any, **_: Any) -> None:
        # redis-py splits command names of two words.
        self.send_packed_command([[_word(word) for word in words]])

    def can_read(self, timeout: float | None = 0, **_: Any) -> bool:
        if timeout:
            self.world.wait(lambda: self.readable, self.world.now + timeout)
        return self.readable

    def read_response(
        self, disable_decoding: bool = False, timeout: Any = ..., disconnect_on_error: bool = True, **_: Any
    ) -> Any:
        seconds = self.socket_timeout if timeout is ... else timeout
        self.world.wait(lambda: self.readable, None if seconds is None else self.world.now + seconds)
        session = self.session
        if session is None or not session.outbox:
            late = session is not None and not session.cut
            self.disconnect()
            raise TimeoutError("Timeout reading from socket") if late else ConnectionError("Connection closed by server.")
        answer = session.outbox.popleft()
        if isinstance(answer, Exception):
            raise answer
        return answer


def _word(value: Any) -> bytes:
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return value.encode("utf-8")
    return repr(value).encode() if isinstance(value, float) else b"%d" % value


class Selector:
    """Replaces `selectors.DefaultSelector`, for connections and the waker's sockets."""

    def __init__(self) -> None:
        self.world = world()
        self._registered: dict[Any, Any] = {}

    def register(self, sock: Any, events: int, data: Any = None) -> None:
        self._registered[sock] = SimpleNamespace(fileobj=sock, data=data)

    def unregister(self, sock: Any) -> None:
        del self._registered[sock]

    def select(self, timeout: float | None = None) -> list[tuple[Any, int]]:
        until = None if timeout is None else self.world.now + timeout
        self.world.wait(lambda: any(sock.readable for sock in self._registered), until)
        return [(event, selectors.EVENT_READ) for sock, event in self._registered.items() if sock.readable]

    def close(self) -> None:
        self._registered.clear()


class Socket:
    """One end of a socket pair: one end sends, the other reads."""

    def __init__(self) -> None:
        self.other = self
        self.received = b""

    @property
    def readable(self) -> bool:
        return bool(self.received)

    def send(self, data: bytes) -> int:
        self.other.received += data
        return len(data)

    def recv(self, limit: int) -> bytes:
        if not self.received:
            raise BlockingIOError
        data, self.received = self.received[:limit], self.received[limit:]
        return data

    def setblocking(self, flag: bool) -> None: ...

    def close(self) -> None: ...


def socketpair() -> tuple[Socket, Socket]:
    one, other = Socket(), Socket()
    one.other, other.other = other, one
    return one, other
