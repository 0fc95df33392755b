"""Where a sink writes: a TCP peer, a file or standard output. Each gets all bytes of a batch before the batch is committed.

The worker's loop calls them, in its thread. Bytes written without a commit are written again: delivery is at least once.
"""

from __future__ import annotations

import errno
import fcntl
import io
import logging
import os
import random
import select
import signal
import socket
import sys
import termios
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path

from celery_partitions.runtime.peer import NotDelivered, Peer
from celery_partitions.worker.backoff import Backoff
from celery_partitions.worker.process_replacement import is_stopping

logger = logging.getLogger("celery.worker.partitions")

#: The timeout to connect, and the wait before a failed standard output is retried.
PATIENCE_SECONDS = 10.0
#: The timeout to connect while there is nothing to write, and the wait before the next try.
PREPARE_SECONDS = 0.4
#: A peer that accepts nothing for this long counts as gone. Longer than the pauses of a slow receiver. The lease is kept meanwhile.
STALLED_SECONDS = 60.0
#: The same limit, once the process was asked to stop.
LAST_TRY_SECONDS = 3.0
#: How often a blocked write checks whether the process was asked to stop.
LOOK_SECONDS = 0.5


class TCPPeer(Peer):
    """A connection that is made once the sink has its lease, and made again after it breaks. It starts at a message boundary.

    Bytes that the peer's system had not acknowledged when a connection broke are written first to the next one, even if committed.
    """

    def __init__(self, name: str, host: str, port: int) -> None:
        self.name, self.host, self.port = name, host, port
        self._socket: socket.socket | None = None
        self._backoff = Backoff(random.random)
        #: Batches that were written and may not have arrived: the bytes written up to the batch's end, and the batch.
        self._unsure: deque[tuple[int, bytes]] = deque()
        self._written = 0
        self._next_try = 0.0

    def write(self, messages: Sequence[bytes]) -> None:
        data = b"".join(messages)
        try:
            connection = self._socket
            if connection is None or self._is_closed(connection):
                connection = self._connect()
            _send_all(connection, data)
        except OSError as error:
            self._disconnect()
            text = f"sink {self.name!r}: cannot write to {self.host}:{self.port} ({error.strerror or error})"
            raise NotDelivered(text, self._backoff.next_seconds()) from error
        self._note(data)
        self._forget_arrived(connection)
        self._backoff.worked()

    def prepare(self) -> None:
        """Connect early, with a short timeout: a peer may wait for the connection before anything is sent."""
        if time.monotonic() < self._next_try or (self._socket is not None and not self._is_closed(self._socket)):
            return
        try:
            self._connect(PREPARE_SECONDS)
        except OSError:
            self._disconnect()
            self._next_try = time.monotonic() + PREPARE_SECONDS

    def _note(self, data: bytes) -> None:
        self._written += len(data)
        self._unsure.append((self._written, data))

    def _forget_arrived(self, connection: socket.socket) -> None:
        arrived = self._written - _unacknowledged(connection)
        while self._unsure and self._unsure[0][0] <= arrived:
            self._unsure.popleft()

    def _is_closed(self, connection: socket.socket) -> bool:
        """Whether the peer closed the connection: the next write would still appear to succeed. Input from the peer is discarded."""
        try:
            while data := connection.recv(65536):
                del data
        except BlockingIOError:
            return False
        except OSError:
            pass
        return True

    def _connect(self, seconds: float = PATIENCE_SECONDS) -> socket.socket:
        self._disconnect()
        made = socket.create_connection((self.host, self.port), timeout=seconds)
        try:
            made.setblocking(False)
            made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for _, data in self._unsure:
                _send_all(made, data)
        except OSError:
            made.close()
            raise
        logger.info("sink %r: connected to %s:%d", self.name, self.host, self.port)
        again, self._written = [data for _, data in self._unsure], 0
        self._unsure.clear()
        self._socket = made
        for data in again:
            self._note(data)
        return made

    def _disconnect(self) -> None:
        if self._socket is not None:
            self._forget_arrived(self._socket)
            self._socket.close()
            self._socket = None


def _send_all(connection: socket.socket, data: bytes) -> None:
    """Write everything, however slow the peer is. Raises `OSError` if the connection breaks or the peer stalls."""
    rest, progress_at = memoryview(data), time.monotonic()
    while rest:
        try:
            sent = connection.send(rest)
        except BlockingIOError:
            if time.monotonic() - progress_at > (LAST_TRY_SECONDS if is_stopping() else STALLED_SECONDS):
                raise TimeoutError(errno.ETIMEDOUT, "it accepts no more data") from None
            select.select([], [connection], [], LOOK_SECONDS)
        else:
            rest, progress_at = rest[sent:], time.monotonic()


def _unacknowledged(connection: socket.socket) -> int:
    """How many written bytes the peer's system has not acknowledged; 0 if this system cannot say."""
    try:
        return int.from_bytes(fcntl.ioctl(connection.fileno(), termios.TIOCOUTQ, bytes(4)), sys.byteorder)
    except OSError:
        return 0


class FilePeer(Peer):
    """Appends lines to a file; they are on disk before `write` returns. A partial last line left by a crash is terminated first."""

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
            self._close()  # part of a line may be written: `_open` terminates it
            text = f"sink {self.name!r}: cannot write to {self.path} ({error.strerror or error})"
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
        """Whether the path now names a different file, as after a log rotation."""
        try:
            return not os.path.samestat(os.fstat(file.fileno()), self.path.stat())
        except FileNotFoundError:
            return True

    def _close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


class StdoutPeer(Peer):
    """Writes lines to file descriptor `number`, the process's standard output. Ends the process once the reader has closed it."""

    def __init__(self, name: str, number: int) -> None:
        self.name, self.number = name, number

    def write(self, messages: Sequence[bytes]) -> None:
        try:
            _write_all(self.number, b"".join(message + b"\n" for message in messages))
        except BrokenPipeError as error:
            os.kill(os.getpid(), signal.SIGTERM)
            raise NotDelivered(f"sink {self.name!r}: standard output was closed; stopping", PATIENCE_SECONDS) from error
        except OSError as error:
            text = f"sink {self.name!r}: cannot write to standard output ({error.strerror or error})"
            raise NotDelivered(text, PATIENCE_SECONDS) from error


def _write_all(number: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(number, rest) :]
