"""A file's lines as a source. Its position is the file's inode and a byte offset."""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
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


class Place(msgspec.Struct):
    """A place in a file."""

    inode: int = 0
    offset: int = 0


class FileReader:
    """Reads an append-only file that may be replaced by a new one of the same name (log rotation).

    A message's id is the source's name, the inode and the line's offset. A writer may still append to a replaced file until it
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
                "Only append to it, or replace it with a new file, which is read from its beginning"
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
        return escape(f"{self.name}:{self.place.inode}:{self.place.offset}")

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
        inode = os.fstat(self.file.fileno()).st_ino
        if inode != self.place.inode:
            if self.place.inode:
                logger.warning("source %r: %s was replaced by a new file; reading it from its beginning", self.name, self.path)
            self.place = Place(inode)
        self.file.seek(self.place.offset)
        return True

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
        return msgspec.json.encode(self.place)

    def wait(self, seconds: float) -> None:
        self.stop.wait(min(seconds, FOLLOW_SECONDS))

    def close(self) -> None:
        self._end_seen = None
        if self.file is not None:
            self.file.close()
            self.file = None
