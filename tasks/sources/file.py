"""A file's lines as a source. Its position is a byte offset, and what identifies the file.

A file system may give a new file the inode of one that was just deleted, so the position also has a fingerprint of the file's beginning.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from hashlib import sha1
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import SetupError, describe, trace_of
from celery_partitions.model.message_writer import escape
from celery_partitions.pipeline.sources import FileSource
from celery_partitions.producer.bulk import CHUNK_SECONDS
from celery_partitions.runtime.installation import Installation
from celery_partitions.sources.leased_source import Filled
from celery_partitions.sources.outbox import Outbox
from celery_partitions.sources.stop_signal import Stop

logger = logging.getLogger("celery.partitions.source")

#: How often the end of a followed file is polled, and how long a replaced file must stay unchanged before the reader leaves it.
#: Longer than a writer needs for its last lines after a log rotation renamed the file.
FOLLOW_SECONDS = 0.25


#: How much of a file's beginning its fingerprint covers, at most. The offset is another limit: what was not read yet may change.
FINGERPRINT_BYTES = 1024


class Place(msgspec.Struct):
    """A place in a file."""

    inode: int = 0
    offset: int = 0
    #: 0: not known, because an earlier version wrote the position.
    device: int = 0
    #: How many files with this inode were read before. It is part of the messages' ids.
    generation: int = 0
    #: SHA-1 of the file's first `fingerprinted` bytes.
    fingerprint: str = ""
    fingerprinted: int = 0


class FileReader:
    """Reads an append-only file that may be replaced by a new one of the same name (log rotation).

    A message's id is the source's name, the inode and the line's offset, so it is the same when the line is read again. A writer may still append to a replaced file until it
    reopens the path. The reader therefore leaves the old file only when it has not grown for `FOLLOW_SECONDS`. It then takes an
    unterminated last line as complete; lines appended later are not read.
    """

    def __init__(self, installation: Installation, computation: Computation, config: FileSource, stop: Stop) -> None:
        self.name, self.path, self.follow, self.stop = computation.name, Path(config.path), config.follow, stop
        self.decode: Callable[[bytes], Any] = config.decoder or msgspec.json.decode
        self.max_bytes = installation.settings.message_bytes
        self.place = Place()
        self.file: BinaryIO | None = None
        #: The size of a replaced file, and when that size was first seen.
        self._end_seen: tuple[int, float] | None = None
        self._said_missing = False

    def begin(self, position: bytes, token: int) -> None:
        self.close()
        self.place = msgspec.json.decode(position, type=Place) if position else Place()

    def fill(self, outbox: Outbox) -> Filled:
        if self.file is None and not self.open():
            return "wait"
        assert self.file is not None
        until = time.monotonic() + CHUNK_SECONDS
        while not outbox.is_full and time.monotonic() < until:
            line = self.file.readline(self.max_bytes + 1)
            if not line.endswith(b"\n"):
                if len(line) > self.max_bytes:
                    self.skip(line, outbox)
                    continue
                return self.at_end(line, outbox)
            self.take(line, outbox)
        return "more"

    def at_end(self, line: bytes, outbox: Outbox) -> Filled:
        """Handle the end of the file. `line` is empty or unterminated; it counts as complete once the file cannot grow any more."""
        assert self.file is not None
        if os.fstat(self.file.fileno()).st_size < self.place.offset:
            raise SetupError(
                f"source {self.name!r}: {self.path} was truncated: it is shorter than the {self.place.offset} bytes already read. "
                "Only append to it, or replace it with a new file, which is read from its beginning (logrotate: create, not copytruncate)"
            )
        if self.follow and not self.can_be_left(self.place.offset + len(line)):
            self.file.seek(self.place.offset)
            return "wait"
        if line:
            self.take(line, outbox)
        self.close()
        if not self.follow:
            return "done"
        self.place = Place()
        return "more"

    def take(self, line: bytes, outbox: Outbox) -> None:
        """Take one line. The offset moves only after the line is in the outbox, so that an exception cannot lose it."""
        text = line.removesuffix(b"\n").removesuffix(b"\r")
        if text.strip():
            self.put(text, outbox)
        self.place.offset += len(line)

    def put(self, text: bytes, outbox: Outbox) -> None:
        name = self.next_id()
        try:
            message = self.decode(text)
        except (Exception, SystemExit) as error:
            outbox.add_dead_letter(text, name, "not-decoded", f"cannot decode a line of {self.path}: {describe(error)}", trace_of(error))
        else:
            if message is not None:
                outbox.put(message, name, lambda: text)

    def skip(self, begun: bytes, outbox: Outbox) -> None:
        """Skip a line that is too long. Its dead letter holds the beginning of the line and says where the line is."""
        assert self.file is not None
        start, part = self.place.offset, begun
        end = start + len(part)
        while part and not part.endswith(b"\n"):
            part = self.file.readline(self.max_bytes)
            end += len(part)
        text = f"bytes {start} to {end} of {self.path} are one line, longer than {self.max_bytes} bytes (PARTITIONS_MESSAGE_BYTES)"
        outbox.add_dead_letter(begun, self.next_id(), "too-large", text)
        self.place.offset = end

    def next_id(self) -> bytes:
        generation = f".{self.place.generation}" if self.place.generation else ""
        return escape(f"{self.name}:{self.place.inode}{generation}:{self.place.offset}")

    def open(self) -> bool:
        """Open the file and seek to the position. Returns False if the file does not exist yet."""
        try:
            self.file = self.path.open("rb")
        except FileNotFoundError:
            if not self.follow:
                raise SetupError(f"source {self.name!r}: file {self.path} does not exist") from None
            if not self._said_missing:
                self._said_missing = True
                logger.warning("source %r: file %s does not exist yet; waiting for it", self.name, self.path)
            return False
        except OSError as error:
            raise SetupError(f"source {self.name!r}: cannot read {self.path}: {error.strerror}") from error
        status = os.fstat(self.file.fileno())
        if not self.is_the_file(status):
            if self.place.inode:
                logger.warning("source %r: %s was replaced by a new file; reading it from its beginning", self.name, self.path)
            generation = self.place.generation + 1 if status.st_ino == self.place.inode else 0
            self.place = Place(status.st_ino, device=status.st_dev, generation=generation)
        self.file.seek(self.place.offset)
        return True

    def is_the_file(self, status: os.stat_result) -> bool:
        """Whether the open file is the one that the position is in. A device may get another number when the machine starts again, so it
        matters only without a fingerprint."""
        if status.st_ino != self.place.inode:
            return False
        if self.place.fingerprinted:
            return self.fingerprint_of(self.place.fingerprinted) == self.place.fingerprint
        return self.place.device in (0, status.st_dev)

    def fingerprint_of(self, size: int) -> str:
        """The fingerprint of the open file's first `size` bytes."""
        assert self.file is not None
        return sha1(os.pread(self.file.fileno(), size, 0), usedforsecurity=False).hexdigest()

    def can_be_left(self, end: int) -> bool:
        """Whether the path names another file and this one, `end` bytes long, has not grown for `FOLLOW_SECONDS`."""
        if not self.was_replaced():
            self._end_seen = None
            return False
        now = time.monotonic()
        if self._end_seen is None or self._end_seen[0] != end:
            self._end_seen = end, now
        return now - self._end_seen[1] >= FOLLOW_SECONDS

    def was_replaced(self) -> bool:
        """Whether the path now names a different file than the open one."""
        try:
            return self.path.stat().st_ino != self.place.inode
        except OSError:
            return False

    def position(self) -> bytes:
        self.note_fingerprint()
        return msgspec.json.encode(self.place)

    def note_fingerprint(self) -> None:
        """Extend the position's fingerprint to what was read, if the file is open."""
        size = min(self.place.offset, FINGERPRINT_BYTES)
        if size > self.place.fingerprinted and self.file is not None:
            self.place.fingerprint, self.place.fingerprinted = self.fingerprint_of(size), size

    def wait(self, seconds: float) -> None:
        self.stop.wait(min(seconds, FOLLOW_SECONDS))

    def close(self) -> None:
        self._end_seen = None
        if self.file is not None:
            self.note_fingerprint()  # the position is stored later
            self.file.close()
            self.file = None
