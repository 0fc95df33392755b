"""One connection through the proxy: a line for each direction, and the faults that lose a request or a reply.

Everything here runs in the proxy's event loop.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass, field
from typing import Literal

from tests.support.resp import Frames

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]

CHUNK_BYTES = 256 * 1024

#: After these requests the connection carries no more requests and replies: a replica's link, and the import of a slot.
STREAMS = (b"PSYNC", b"SYNCSLOTS")
#: Replies to requests that have not been executed (yet).
NOT_DONE = (b"-NOSCRIPT", b"+QUEUED")
#: The first byte of a RESP3 push message, which does not answer a request.
PUSH = b">"


@dataclass(slots=True, eq=False)
class Fault:
    """Loses a request that contains `marker`, or its reply, together with the connection, `remaining` times."""

    marker: bytes
    lose: Literal["request", "reply"]
    remaining: int = 1
    #: How often the fault has happened.
    fired: int = 0

    def meets(self, request: bytes) -> bool:
        """Whether this fault still waits for such a request."""
        return self.remaining > 0 and self.marker in request

    def cancel(self) -> None:
        """Lose nothing more."""
        self.remaining = 0

    def fire(self) -> None:
        """Count one loss."""
        self.remaining -= 1
        self.fired += 1


@dataclass(slots=True)
class Traffic:
    """The current settings of a proxy, shared by its connections."""

    delay_seconds: float = 0.0
    frozen: bool = False
    faults: list[Fault] = field(default_factory=list)

    def fault_for(self, request: bytes, lose: Literal["request", "reply"]) -> Fault | None:
        """The first fault that applies to this request, or to its reply."""
        return next((fault for fault in self.faults if fault.lose == lose and fault.meets(request)), None)


class Line:
    """One direction of a connection. Chunks leave in the order they came, each after half the delay."""

    def __init__(self, traffic: Traffic, writer: asyncio.StreamWriter) -> None:
        self._traffic = traffic
        self._writer = writer
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[tuple[float, bytes | None]] = deque()  # (when due, bytes; None closes)
        self._timer: asyncio.TimerHandle | None = None

    def put(self, data: bytes | None) -> None:
        """Send `data` when it is due. `None` closes the line after everything put before."""
        if data != b"":
            self._waiting.append((self._loop.time() + self._traffic.delay_seconds / 2, data))
            self.deliver()

    def deliver(self) -> None:
        """Send all that is due, and call this again when the next chunk is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._waiting and not self._traffic.frozen:
            due, data = self._waiting[0]
            if due > self._loop.time():
                self._timer = self._loop.call_at(due, self.deliver)
                return
            self._waiting.popleft()
            if data is None:
                self._writer.close()
            elif not self._writer.is_closing():
                self._writer.write(data)

    def abort(self) -> None:
        """Close now. Waiting chunks are lost."""
        self._waiting.clear()
        self.deliver()
        self._writer.transport.abort()


class Connection:
    """A client's connection and the proxy's connection to the server, until both have ended."""

    def __init__(self, traffic: Traffic, client: Streams, server: Streams) -> None:
        self._traffic = traffic
        self._from_client, to_client = client
        self._from_server, to_server = server
        self._to_client = Line(traffic, to_client)
        self._to_server = Line(traffic, to_server)
        #: For each request that the server has not answered, the fault that loses its reply.
        self._unanswered: deque[Fault | None] = deque()
        self._is_stream = False

    async def run(self) -> None:
        """Forward until both ends are closed."""
        try:
            await asyncio.gather(self._forward_requests(), self._forward_replies())
        finally:
            self.abort()

    def abort(self) -> None:
        """Drop both ends now."""
        self._to_client.abort()
        self._to_server.abort()

    def deliver(self) -> None:
        """Send the held chunks that are due."""
        self._to_client.deliver()
        self._to_server.deliver()

    async def _forward_requests(self) -> None:
        frames = Frames()
        while data := await _read(self._from_client):
            self._is_stream = self._is_stream or any(word in data[:200] for word in STREAMS)
            if self._is_stream:
                self._to_server.put(frames.rest() + data)
                continue
            forwarded: list[bytes] = []
            for request in frames.feed(data):
                if fault := self._traffic.fault_for(request, "request"):
                    fault.fire()
                    self._to_server.put(b"".join(forwarded))
                    self._end()
                    return
                forwarded.append(request)
                self._unanswered.append(self._traffic.fault_for(request, "reply"))
            self._to_server.put(b"".join(forwarded))
        self._to_server.put(None)

    async def _forward_replies(self) -> None:
        frames = Frames()
        while data := await _read(self._from_server):
            if self._is_stream:
                self._to_client.put(frames.rest() + data)
                continue
            forwarded: list[bytes] = []
            for reply in frames.feed(data):
                if fault := self._fault_of(reply):
                    fault.fire()
                    self._to_client.put(b"".join(forwarded))
                    self._end()
                    return
                forwarded.append(reply)
            self._to_client.put(b"".join(forwarded))
        self._to_client.put(None)

    def _fault_of(self, reply: bytes) -> Fault | None:
        """The fault that loses this reply, if there is one. A message of a subscription does not answer a request."""
        if reply.startswith(PUSH) or not self._unanswered:
            return None
        fault = self._unanswered.popleft()
        if fault is None or fault.remaining == 0:
            return None
        if reply.startswith(NOT_DONE):
            if self._unanswered and reply.startswith(b"+QUEUED"):
                self._unanswered[0] = fault
            return None
        return fault

    def _end(self) -> None:
        """Close both directions, after everything forwarded before."""
        self._to_client.put(None)
        self._to_server.put(None)


async def _read(reader: asyncio.StreamReader) -> bytes:
    """The next chunk; empty if the other end has closed or dropped the connection."""
    try:
        return await reader.read(CHUNK_BYTES)
    except ConnectionError:
        return b""
