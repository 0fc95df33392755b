"""The other side of a sink: a TCP peer, a file, the standard output. Each takes the bytes of a batch, whole, before it is committed.

Called by the worker's loop, in its thread. What was written and not committed is written again: at least once.
"""

from __future__ import annotations

import io
import logging
import os
import random
import signal
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from tasks.worker.backoff import Backoff
from tasks.worker.flushing import NotDelivered

logger = logging.getLogger("celery.worker.partitions")

#: To connect, and for a peer to take more of what is written. Longer than a slow receiver's pause; the lease is kept meanwhile.
PATIENCE_SECONDS = 10.0


class Peer(Protocol):
    """What delivers a batch."""

    def write(self, messages: Sequence[bytes]) -> None:
        """Bring all messages out, in order. Raises `NotDelivered`."""
        ...


class TCPPeer:
    """A connection, made when there is something to write, and made again when it breaks. It begins with a message's start."""

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name, self.host, self.port = name, host, port
        self._socket: socket.socket | None = None
        self._backoff = Backoff(random.random)

    def write(self, messages: Sequence[bytes]) -> None:
        try:
            connection = self._socket if self._socket is not None and not self._is_closed(self._socket) else self._connect()
            connection.sendall(b"".join(messages))
        except OSError as error:
            self._disconnect()
            text = f"sink {self.name!r}: {self.host}:{self.port} does not take it ({error.strerror or error})"
            raise NotDelivered(text, self._backoff.next_seconds()) from error
        self._backoff.worked()

    def _is_closed(self, connection: socket.socket) -> bool:
        """Whether the peer has left: then the next write would seem to go well. What it sends is read and dropped."""
        connection.setblocking(False)
        try:
            while data := connection.recv(65536):
                del data
        except BlockingIOError:
            return False
        except OSError:
            return True
        finally:
            connection.settimeout(PATIENCE_SECONDS)
        return True

    def _connect(self) -> socket.socket:
        self._disconnect()
        made = socket.create_connection((self.host, self.port), timeout=PATIENCE_SECONDS)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        logger.info("sink %r: connected to %s:%d", self.name, self.host, self.port)
        self._socket = made
        return made

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class FilePeer:
    """Lines at a file's end, on the disk before `write` returns. A last line that a crash has torn gets its end first."""

    def __init__(self, name: str, path: str | Path) -> None:
        self.name, self.path = name, Path(path)
        self._file: io.FileIO | None = None
        self._backoff = Backoff(random.random)

    def write(self, messages: Sequence[bytes]) -> None:
        lines = b"".join(message + b"\n" for message in messages)
        try:
            file = self._open() if self._file is None or self._was_moved(self._file) else self._file
            _write_all(file.fileno(), lines)
            os.fsync(file.fileno())
        except OSError as error:
            self._close()  # a part of a line may be written: opening it again mends that
            text = f"sink {self.name!r}: {self.path} can't be written ({error.strerror or error})"
            raise NotDelivered(text, self._backoff.next_seconds()) from error
        self._backoff.worked()

    def _open(self) -> io.FileIO:
        self._close()
        file = self._file = io.FileIO(self.path, "a+")
        size = file.seek(0, os.SEEK_END)
        if size and os.pread(file.fileno(), 1, size - 1) != b"\n":
            _write_all(file.fileno(), b"\n")
        return file

    def _was_moved(self, file: io.FileIO) -> bool:
        """Whether the path names another file now, as after a rotation of logs."""
        try:
            return not os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class StdoutPeer:
    """Lines on the process's own standard output, which Celery's worker leaves alone. When nobody reads it any more the process ends."""

    def __init__(self, name: str) -> None:
        self.name = name

    def write(self, messages: Sequence[bytes]) -> None:
        try:
            _write_all(1, b"".join(message + b"\n" for message in messages))
        except BrokenPipeError as error:
            os.kill(os.getpid(), signal.SIGTERM)
            raise NotDelivered(f"sink {self.name!r}: standard output was closed; this process ends", PATIENCE_SECONDS) from error
        except OSError as error:
            text = f"sink {self.name!r}: standard output can't be written ({error.strerror or error})"
            raise NotDelivered(text, PATIENCE_SECONDS) from error


def _write_all(number: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]
