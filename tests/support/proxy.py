"""A TCP proxy between Redis clients and their server. It delays, freezes or cuts connections, and loses chosen requests or replies."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from typing import Self, TypeVar

from tests.support.proxy_connection import Connection, Fault, Traffic

T = TypeVar("T")

#: Enough for an action, which is a few steps of the proxy's own event loop.
ACTION_SECONDS = 60.0


class Proxy:
    """Listens on a free loopback port and forwards to the server, in its own thread.

    It forwards whole requests, so it must read RESP and cannot serve a TLS port. Each method returns when
    its effect has happened. If the server is unreachable, the proxy closes each connection at once.
    """

    def __init__(self, target_host: str, target_port: int) -> None:
        self.port = 0
        self._target = (target_host, target_port)
        self._traffic = Traffic()
        self._connections: set[Connection] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._refusing = False
        self._listening = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._main()), name="proxy", daemon=True)
        self._thread.start()
        if not self._listening.wait(ACTION_SECONDS):
            raise RuntimeError("the proxy can't listen")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def url(self, db: int = 0) -> str:
        """The proxy's address as a `REDIS_URL`. Add the password if the server has one."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    @property
    def connection_count(self) -> int:
        """The number of open connections through the proxy."""
        return len(self._connections)

    @property
    def delay_seconds(self) -> float:
        """The delay added to every round trip, half in each direction. Throughput does not change."""
        return self._traffic.delay_seconds

    @delay_seconds.setter
    def delay_seconds(self, seconds: float) -> None:
        self._traffic.delay_seconds = seconds

    def cut(self) -> None:
        """Drop every connection now, with the data in transit."""
        self._do(self._abort_all)

    def refuse(self) -> None:
        """Close every new connection at once, until `accept`. Existing connections stay open."""
        self._refusing = True

    def accept(self) -> None:
        """The opposite of `refuse`."""
        self._refusing = False

    def freeze(self) -> None:
        """Hold back all traffic until `thaw`, including the closing of connections. Nothing is lost."""
        self._traffic.frozen = True
        self._do(lambda: None)  # wait for a chunk that is being forwarded

    def thaw(self) -> None:
        """Deliver everything that was held back, in order."""
        self._traffic.frozen = False
        self._do(self._deliver_all)

    def cut_before_request(self, marker: bytes, times: int = 1) -> Fault:
        """Close the connection when a request that contains `marker` arrives. The server never sees the request."""
        return self._add(Fault(marker, lose="request", remaining=times))

    def cut_before_reply(self, marker: bytes, times: int = 1) -> Fault:
        """Close the connection when the server has answered a request that contains `marker`. The reply is lost.

        By then the request has been executed: `NOSCRIPT` and `QUEUED` are forwarded, and the fault
        waits for the next reply (in a MULTI block that is the reply to EXEC).
        """
        return self._add(Fault(marker, lose="reply", remaining=times))

    def forgive(self) -> None:
        """From now on no fault that was asked for loses anything."""
        self._do(lambda: [fault.cancel() for fault in self._traffic.faults])

    def check_faults(self) -> None:
        """Raise `AssertionError` if a fault never happened, because the test then proved nothing. `Fault.cancel` withdraws a fault."""
        unmet = [fault for fault in self._traffic.faults if fault.remaining and not fault.fired]
        assert not unmet, f"these faults never happened: {unmet}"

    def close(self) -> None:
        """Drop every connection, stop listening and end the thread. Can be called twice."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._stopping.set)
            self._thread.join(ACTION_SECONDS)

    def _add(self, fault: Fault) -> Fault:
        self._do(lambda: self._traffic.faults.append(fault))
        return fault

    def _do(self, action: Callable[[], T]) -> T:
        """Run `action` in the proxy's thread, and wait for it."""

        async def run() -> T:
            return action()

        return asyncio.run_coroutine_threadsafe(run(), self._loop).result(ACTION_SECONDS)

    async def _main(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stopping = asyncio.Event()
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._loop.add_reader(listener, self._accept, listener)
            self._listening.set()
            await self._stopping.wait()
            self._loop.remove_reader(listener)
        self._abort_all()
        while self._tasks:
            await asyncio.wait(self._tasks)

    def _accept(self, listener: socket.socket) -> None:
        """Not asyncio's own server: that one leaks an accepted socket if the loop ends before the first step of its task."""
        client, _ = listener.accept()
        if self._refusing:
            client.close()
            return
        task = self._loop.create_task(self._connected(client))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _connected(self, client: socket.socket) -> None:
        from_client = await asyncio.open_connection(sock=client)
        try:
            from_server = await asyncio.open_connection(*self._target)
        except OSError:  # the server is unreachable
            from_client[1].transport.abort()
            return
        connection = Connection(self._traffic, from_client, from_server)
        self._connections.add(connection)
        try:
            if self._stopping.is_set():  # in the meantime
                connection.abort()
            await connection.run()
        finally:
            self._connections.discard(connection)

    def _abort_all(self) -> None:
        for connection in list(self._connections):
            connection.abort()

    def _deliver_all(self) -> None:
        for connection in list(self._connections):
            connection.deliver()
