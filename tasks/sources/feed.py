"""One TCP source in a process: its listening socket, its decoder and its outbox."""

from __future__ import annotations

import logging
import socket
import uuid

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import SetupError, describe, trace_of
from celery_partitions.pipeline.frames import FrameSplitter
from celery_partitions.pipeline.sources import TCPSourceConfig
from celery_partitions.producer.message_maker import random_id, random_ids
from celery_partitions.runtime.installation import Installation
from celery_partitions.sources.outbox import Outbox, Run
from celery_partitions.sources.patience import Patience
from celery_partitions.sources.stop_signal import Stop

logger = logging.getLogger("celery.partitions.source")

#: How many ids are generated together.
IDS = 1000


class Feed:
    """The constructor starts to listen. Raises `SetupError` if the address cannot be bound."""

    def __init__(self, installation: Installation, computation: Computation, config: TCPSourceConfig, stop: Stop) -> None:
        self.name, self.config = computation.name, config
        self.max_bytes = installation.settings.message_bytes
        names = installation.group.names
        place = Run(names.source(self.name, uuid.uuid4().hex))
        self.outbox = Outbox(installation, computation, place, Patience(self.name, stop))
        self._ids, self._next_id = "", IDS
        try:
            family = socket.AF_INET6 if ":" in config.host else socket.AF_INET
            self.listener = socket.create_server((config.host, config.port), family=family, backlog=128)
        except OSError as error:
            raise SetupError(f"source {self.name!r} cannot listen on {config.host}:{config.port}: {error.strerror or error}") from error
        self.listener.setblocking(False)

    @property
    def address(self) -> str:
        host, port = self.listener.getsockname()[:2]
        return f"{host}:{port}"

    def splitter(self) -> FrameSplitter:
        """A frame splitter for a new connection."""
        return FrameSplitter(self.config.decoder, self.max_bytes)  # type: ignore[arg-type]

    def take(self, payloads: list[bytes]) -> None:
        """Decode the next frames of a connection and put their messages into the outbox."""
        decode, outbox = self.config.decoder, self.outbox
        for payload in payloads:
            try:
                message = decode(payload)
            except (Exception, SystemExit) as error:
                outbox.add_dead_letter(payload, self.next_id(), "not-decoded", f"the decoder raised {describe(error)}", trace_of(error))
            else:
                if message is not None:
                    outbox.put(message, self.next_id(), lambda payload=payload: payload)  # type: ignore[misc]
            if outbox.is_full:
                outbox.send()

    def add_dead_letter(self, rest: bytes, text: str) -> None:
        """Record bytes that are not a valid frame as a dead letter."""
        self.outbox.add_dead_letter(rest, self.next_id(), "bad-frame", text)

    def next_id(self) -> bytes:
        if self._next_id == IDS:
            self._ids, self._next_id = random_ids(IDS), 0
        self._next_id += 1
        return random_id(self._ids, self._next_id - 1)

    def send(self) -> None:
        """Send the outbox to the partition queues, if it holds anything."""
        if self.outbox.has_something:
            self.outbox.send()
