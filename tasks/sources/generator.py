"""A generator as a source: it computes each value from the previous one, so the last value and its attributes are its position."""

from __future__ import annotations

import logging
import time
from typing import Any

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import PartitionError, StateError, describe
from celery_partitions.model.message_writer import escape
from celery_partitions.model.restricted_pickle import copied
from celery_partitions.producer.bulk import CHUNK_SECONDS
from celery_partitions.runtime.installation import Installation
from celery_partitions.sources.leased_source import Filled
from celery_partitions.sources.outbox import Outbox
from celery_partitions.sources.stop_signal import Stop

logger = logging.getLogger("celery.partitions.source")


class GeneratorReader:
    """A position is `<count>:[last value, generator's attributes]`. A message's id is the source's name and its number, from 1."""

    def __init__(self, installation: Installation, computation: Computation, generator: Any, stop: Stop) -> None:
        self.computation, self.stop = computation, stop
        self.codec = installation.group.codec
        self.generator = generator() if isinstance(generator, type) else generator
        self._fresh = copied(self._attributes())
        self._keeps_attributes = True
        self.count = 0
        self.value: Any = None

    def begin(self, position: bytes, token: int) -> None:
        self.count, self.value = 0, None
        attributes = self._fresh
        if position:
            count, _, stored = position.partition(b":")
            try:
                self.value, attributes = self.codec.load_position(self.computation, stored)
                self.count = int(count)
            except StateError as error:
                raise StateError(f"source {self.computation.name!r}: cannot read its stored position: {error}") from error

        if attributes is not None and hasattr(self.generator, "__dict__"):
            self.generator.__dict__.clear()
            self.generator.__dict__.update(copied(attributes))

    def fill(self, outbox: Outbox) -> Filled:
        until = time.monotonic() + CHUNK_SECONDS
        while not outbox.is_full and time.monotonic() < until and not self.stop.requested:
            try:
                value = self.generator.apply(self.value) if self.count else self.generator.initial_value()
            except Exception as error:
                raise PartitionError(f"source {self.computation.name!r}: the generator raised {describe(error)} after {self.count} values") from error
            if value is None:
                return "ended"
            name = escape(f"{self.computation.name}:{self.count + 1}")
            outbox.put(value, name, lambda value=value: shown(value))  # type: ignore[misc]
            self.value, self.count = value, self.count + 1
        return "more"

    def position(self) -> bytes:
        try:
            return b"%d:" % self.count + self._reached()
        except StateError as error:
            raise StateError(f"source {self.computation.name!r}: cannot store its position: {error}") from error

    def _reached(self) -> bytes:
        if self._keeps_attributes:
            try:
                return self.codec.dump_position(self.computation, [self.value, self._attributes()])
            except StateError as error:
                self._keeps_attributes = False
                text = "source %r: cannot store the generator's attributes; they are reset when another process takes over: %s"
                logger.warning(text, self.computation.name, error)
        return self.codec.dump_position(self.computation, [self.value, None])

    def _attributes(self) -> dict[str, Any]:
        return getattr(self.generator, "__dict__", {})

    def wait(self, seconds: float) -> None:
        self.stop.wait(seconds)


def shown(value: Any) -> bytes:
    """A value as text for people. Safe even if its `__repr__` raises."""
    try:
        return repr(value).encode("utf-8", "backslashreplace")
    except Exception as error:
        return f"a {type(value).__qualname__}, whose __repr__ raises {type(error).__name__}".encode()
