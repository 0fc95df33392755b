"""A TCP proxy between Redis clients and their server: delays, silences, cuts, and loses one chosen reply."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self, TypeVar

from tests.support.proxy_connection import Connection, Fault, Traffic

T = TypeVar("T")

#: Every action is a few steps of the proxy's own loop.
ACTION_SECONDS = 10.0


class Proxy:
    """Listens on a free loopback port and forwards to the server, from a thread of its own.

    It forwards whole requests, and so reads RESP: it can't stand before a TLS port. Each method returns when
    it has been done. A proxy before a server that is not there closes each connection at once.
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

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def url(self, db: int = 0) -> str:
        """The proxy's address, as `REDIS_URL` takes it (a server with a password wants it put in)."""
        return f"redis://127.0.0.1:{self.port}/{db}"

    @property
    def connection_count(self) -> int:
        """How many connections go through at this moment."""
        return len(self._connections)

    @property
    def delay_seconds(self) -> float:
        """What is added to every round trip, half on each way. Throughput is as without."""
        return self._traffic.delay_seconds

    @delay_seconds.setter
    def delay_seconds(self, seconds: float) -> None:
        self._traffic.delay_seconds = seconds

    def cut(self) -> None:
        """Drop every connection now, with whatever is on its way in it."""
        self._do(self._abort_all)

    def refuse(self) -> None:
        """Close every new connection at once, until `accept`. Those that are there stay."""
        self._refusing = True

    def accept(self) -> None:
        """The opposite of `refuse`."""
        self._refusing = False

    def freeze(self) -> None:
        """Hold everything that passes, the end of a connection too, until `thaw`. Nothing is lost."""
        self._traffic.frozen = True
        self._do(lambda: None)  # a chunk that was being forwarded is through

    def thaw(self) -> None:
        """Let everything that was held go on, in order."""
        self._traffic.frozen = False
        self._do(self._deliver_all)

    def cut_before_request(self, marker: bytes, times: int = 1) -> Fault:
        """Close the connection when a request with `marker` in it arrives; the server never sees it."""
        return self._add(Fault(marker, lose="request", remaining=times))

    def cut_before_reply(self, marker: bytes, times: int = 1) -> Fault:
        """Close the connection when the server has answered a request with `marker` in it; the reply is lost.

        What the request does has been done by then: `NOSCRIPT` and `QUEUED` are passed on, and the fault
        waits for the reply after (in a MULTI block that is the reply to EXEC).
        """
        return self._add(Fault(marker, lose="reply", remaining=times))

    def forgive(self) -> None:
        """From now on no fault that was asked for loses anything."""
        self._do(lambda: [fault.cancel() for fault in self._traffic.faults])

    def check_faults(self) -> None:
        """Raise `AssertionError` for a fault that never met its request: the test passed without it. `Fault.cancel` takes one back."""
        unmet = [fault for fault in self._traffic.faults if fault.remaining and not fault.fired]
        assert not unmet, f"these faults never happened: {unmet}"

    def close(self) -> None:
        """Drop every connection, stop listening and end the thread. Harmless when done twice."""
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
        """asyncio's own servers lose an accepted socket when their loop ends before the first step of its task."""
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
        except OSError:  # the server is not there
            from_client[1].transport.abort()
            return
        connection = Connection(self._traffic, from_client, from_server)
        self._connections.add(connection)
        try:
            if self._stopping.is_set():  # since it was accepted
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
