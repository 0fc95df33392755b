"""The other side of TCP sources and sinks."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Self

from tests.support.server import free_port
from tests.support.wait import wait_until

#: Longer than starting and ending a run on a busy machine.
PATIENCE_SECONDS = 60.0


class Receiver:
    """Listens on a port and keeps what comes. A frame is 4 bytes of length, then the payload. `close` and `open` at will."""

    def __init__(self, port: int | None = None) -> None:
        self.port = port or free_port()
        #: Complete frames, by connection, and all bytes of each.
        self.connections: list[list[bytes]] = []
        self._bytes: list[bytearray] = []
        self._sockets: list[socket.socket] = []
        self._listener: socket.socket | None = None

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def frames(self) -> list[bytes]:
        return [frame for frames in list(self.connections) for frame in list(frames)]

    @property
    def data(self) -> bytes:
        """The bytes of all connections, one after another."""
        return b"".join(self._bytes)

    def lines(self) -> list[str]:
        return self.data.decode().splitlines()

    def wait_bytes(self, count: int) -> None:
        wait_until(lambda: len(self.data) >= count, PATIENCE_SECONDS, message=f"not {count} bytes")

    def wait_lines(self, count: int) -> None:
        wait_until(lambda: self.data.count(b"\n") >= count, PATIENCE_SECONDS, message=f"not {count} lines")

    def open(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", self.port))
        threading.Thread(target=self._accept, args=(self._listener,), daemon=True).start()

    def close(self) -> None:
        """Stop listening and break all connections, even in the middle of a frame."""
        for one in [self._listener, *self._sockets]:
            if one is not None:
                with contextlib.suppress(OSError):
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
        self._listener, self._sockets = None, []

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = listener.accept()
                self.connections.append([])
                self._bytes.append(bytearray())
                self._sockets.append(connection)
                threading.Thread(target=self._read, args=(connection, self.connections[-1], self._bytes[-1]), daemon=True).start()

    def _read(self, connection: socket.socket, frames: list[bytes], every: bytearray) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
                every += data
                rest += data
                while len(rest) >= 4 and len(rest) >= (end := 4 + int.from_bytes(rest[:4], "big")):
                    frames.append(rest[4:end])
                    rest = rest[end:]


def framed(*payloads: bytes | str) -> bytes:
    """Payloads, each preceded by its length in 4 bytes."""
    each = [payload.encode() if isinstance(payload, str) else payload for payload in payloads]
    return b"".join(len(payload).to_bytes(4, "big") + payload for payload in each)


@contextlib.contextmanager
def sender(port: int) -> Iterator[socket.socket]:
    """A connection to a source."""
    with socket.create_connection(("127.0.0.1", port), timeout=60) as connection:
        yield connection
