"""`celery -A APP partitions source NAME` and `… sink NAME` as child processes, and the other side of a TCP sink."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Self

from tests.support.applications import ends
from tests.support.child import ChildProcess
from tests.support.python_process import start_python
from tests.support.worker import ROOT


class EndProcess(ChildProcess):
    """The process of one source or sink of `tests.support.applications.ends`. As a context manager it is killed at the end."""

    def __init__(self, kind: str, name: str, directory: Path, env: Mapping[str, str], *arguments: str) -> None:
        number = len(list(directory.glob(f"{kind}-*.log")))
        log_path, self._out = directory / f"{kind}-{number}.log", directory / f"{kind}-{number}.out"
        with log_path.open("wb") as log, self._out.open("wb") as out:
            process = start_python(
                *("celery", "-A", ends.__name__, "partitions", kind, name, *arguments),
                directory=directory,
                environment={**os.environ, "PYTHONPATH": str(ROOT), **env},
                stdout=out,
                stderr=log,
            )
        super().__init__(f"{kind} {name}", process, log_path)

    def out(self) -> str:
        """What it wrote to standard output."""
        return self._out.read_text(errors="replace")

    def log(self) -> str:
        """What it wrote to standard output, then what it logged."""
        return self.out() + super().log()


class Receiver:
    """Listens on a port and keeps the frames of each connection. A frame is 4 bytes of length, then the payload. `close` and `open` at will."""

    def __init__(self, port: int) -> None:
        self.port = port
        #: Complete frames, by connection.
        self.connections: list[list[bytes]] = []
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
                frames: list[bytes] = []
                self.connections.append(frames)
                self._sockets.append(connection)
                threading.Thread(target=self._read, args=(connection, frames), daemon=True).start()

    def _read(self, connection: socket.socket, frames: list[bytes]) -> None:
        rest = b""
        with contextlib.suppress(OSError):
            while data := connection.recv(65536):
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
