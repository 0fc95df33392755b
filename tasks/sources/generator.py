"""A generator as a source: each value is made of the one before, so that the last value sent is how far it is."""

from __future__ import annotations

import time
from typing import Any

from tasks.model.computation import Computation
from tasks.model.errors import PartitionError, StateError, say
from tasks.model.writing import in_quotes
from tasks.producer.bulk import CHUNK_SECONDS
from tasks.producer.installation import Installation
from tasks.sources.leased import Filled
from tasks.sources.outbox import Outbox
from tasks.sources.stopping import Stop


class GeneratorReader:
    """Positions are `<how many>:<the last value>`; a message's id is the source's name and its number, from 1."""

    def __init__(self, installation: Installation, computation: Computation, generator: Any, stop: Stop) -> None:
        self.computation, self.stop = computation, stop
        self.codec = installation.group.codec
        self.generator = generator() if isinstance(generator, type) else generator
        self.count = 0
        self.value: Any = None

    def begin(self, position: bytes, token: int) -> None:
        self.count, self.value = 0, None
        if position:
            count, _, stored = position.partition(b":")
            try:
                self.count, self.value = int(count), self.codec.load_position(self.computation, stored)
            except StateError as error:
                raise StateError(f"the value that source {self.computation.name!r} has reached can't be read: {error}") from error

    def fill(self, outbox: Outbox) -> Filled:
        until = time.monotonic() + CHUNK_SECONDS
        while not outbox.is_full and time.monotonic() < until and not self.stop.asked:
            try:
                value = self.generator.apply(self.value) if self.count else self.generator.initial_value()
            except Exception as error:
                raise PartitionError(f"source {self.computation.name!r}: the generator raised {say(error)} after {self.count} values") from error
            if value is None:
                return "ended"
            self.value, self.count = value, self.count + 1
            name = in_quotes(f"{self.computation.name}:{self.count}")
            outbox.put(value, name, lambda value=value: repr(value).encode("utf-8", "backslashreplace"))  # type: ignore[misc]
        return "more"

    def position(self) -> bytes:
        try:
            return b"%d:" % self.count + self.codec.dump_position(self.computation, self.value)
        except StateError as error:
            raise StateError(f"source {self.computation.name!r}: how far it is can't be kept, {error}") from error

    def wait(self, seconds: float) -> None:
        self.stop.wait(seconds)
