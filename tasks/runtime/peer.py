"""What a sink's process delivers to, outside Redis, as the worker's loop sees it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence


class NotDelivered(Exception):
    """The other side is unreachable or refuses the data. The batch stays in its queue and is retried after `rest_seconds`."""

    def __init__(self, text: str, rest_seconds: float) -> None:
        super().__init__(text)
        self.rest_seconds = rest_seconds


class Peer(ABC):
    """Delivers the outputs of a batch before its commit. The worker's loop calls it, in its thread."""

    @abstractmethod
    def write(self, messages: Sequence[bytes]) -> None:
        """Write all messages, in order. If it raises, the batch is tried again; no message counts as failed. Raises `NotDelivered`."""

    def prepare(self) -> None:  # noqa: B027 - a file needs no preparation
        """Prepare what `write` needs. Called whenever a worker that owns a partition starts to wait for messages. It must not raise."""
