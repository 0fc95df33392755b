"""Sources with a position (file, generator, Redis stream): the process that has the lease reads, and stores the position with the messages."""

from __future__ import annotations

import logging
import time
import uuid
from contextlib import suppress
from typing import Literal, Protocol

from celery_partitions.model.computation import Computation
from celery_partitions.runtime.installation import Installation
from celery_partitions.sources.outbox import Outbox, Refused
from celery_partitions.sources.patience import Patience, Stopped
from celery_partitions.sources.stop_signal import Stop
from celery_partitions.store.leases import GRACE_SECONDS, RENEWALS_PER_LEASE
from celery_partitions.store.sources import Hold, hold_source, leave_source

logger = logging.getLogger("celery.partitions.source")

#: `more`: call `fill` again immediately; `wait`: nothing to read now; `done`: the process may end; `ended`: and the source is finished forever.
Filled = Literal["more", "wait", "done", "ended"]



class Reader(Protocol):
    """Reads one source, in the process's main thread. A `PartitionError` that it raises ends the process."""

    def begin(self, position: bytes, token: int) -> None:
        """Continue from a position that `position` returned in this process or another. Empty: start from the beginning."""
        ...

    def fill(self, outbox: Outbox) -> Filled:
        """Put available messages into the outbox until it is full, for not much longer than `CHUNK_SECONDS`."""
        ...

    def position(self) -> bytes:
        """The position after everything that was put into the outbox."""
        ...

    def wait(self, seconds: float) -> None:
        """Wait until there may be more to read or the process was asked to stop, at most `seconds`."""
        ...


class LeasedPlace:
    """A source's position in Redis, and the lease that lets this process advance it."""

    def __init__(self, installation: Installation, source: str, patience: Patience) -> None:
        self.group, self.source, self.patience = installation.group, source, patience
        self.lease_seconds = installation.settings.lease_seconds
        self.key = self.group.names.source(source)
        self.process = uuid.uuid4().hex
        self.number = 0
        self.token: int | None = 0
        self._renewed = 0.0

    def take(self) -> Hold:
        """Wait until no other process has the lease. Raises `Stopped`."""
        logged = False
        while True:
            hold = self.patience.run(self._hold, can_be_left=True)
            if hold.token:
                self.token, self.number = hold.token, hold.number
                return hold
            if not logged:
                logged = True
                logger.info("source %r: another process reads it; waiting to take over", self.source)
            if self.patience.stop.wait(min(hold.left_seconds + GRACE_SECONDS, self.lease_seconds / RENEWALS_PER_LEASE)):
                raise Stopped

    def renew(self) -> None:
        if time.monotonic() - self._renewed > self.lease_seconds / RENEWALS_PER_LEASE and self._hold().token != self.token:
            raise Refused(f"source {self.source!r}: another process reads it now")

    def leave(self) -> None:
        """Release the lease, so that another process can take over immediately."""
        if self.token:
            self.patience.run(lambda: leave_source(self.group.client, self.group.names, self.source, self.token or 0), can_be_left=True)

    def _hold(self) -> Hold:
        began = time.monotonic()
        hold = hold_source(self.group.client, self.group.names, self.source, self.process, self.lease_seconds)
        self._renewed = began
        return hold


class LeasedSource:
    """Reads a source to its end, or until the process is asked to stop."""

    def __init__(self, installation: Installation, computation: Computation, reader: Reader, stop: Stop) -> None:
        self.name, self.reader, self.stop = computation.name, reader, stop
        self.patience = Patience(self.name, stop)
        self.place = LeasedPlace(installation, self.name, self.patience)
        self.outbox = Outbox(installation, computation, self.place, self.patience)

    def run(self) -> None:
        """Read until the source ends or the process is asked to stop. If the reader raises, first send what it had read."""
        try:
            with suppress(Stopped):
                while not self.read():
                    pass
        finally:
            with suppress(Stopped):  # then the lease expires
                self.place.leave()
        logger.info("source %r: ended; %d messages were sent", self.name, self.outbox.sent)

    def read(self) -> bool:
        """Take the lease and read from the stored position. False if another process took over, or Redis lost data."""
        try:
            self.read_on(self.place.take())
        except Refused as error:
            logger.warning("%s; restarting from the position in Redis", error)
            return False
        return True

    def read_on(self, hold: Hold) -> None:
        if hold.ended:
            logger.info("source %r ended in an earlier run: nothing to read", self.name)
            return
        self.outbox.clear()
        self.reader.begin(hold.position, hold.token)
        logger.info("source %r: reading from %s", self.name, "its stored position" if hold.position else "its beginning")
        filled: Filled = "more"
        while not self.stop.requested and filled in ("more", "wait"):
            try:
                filled = self.reader.fill(self.outbox)
            except (Refused, Stopped):
                raise
            except Exception:
                self.send(ends=False)
                raise
            self.send(ends=filled == "ended")
            if filled == "wait":
                self.patience.run(self.place.renew, can_be_left=True)
                self.reader.wait(self.place.lease_seconds / RENEWALS_PER_LEASE)

    def send(self, *, ends: bool) -> None:
        if self.outbox.has_something or ends:
            self.outbox.send(self.reader.position(), ends=ends)
