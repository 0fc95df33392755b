"""Where a test kit catches what computations send and read. `current` is set only while the kit runs computations."""

from __future__ import annotations

from typing import Any, Protocol

from celery.result import AsyncResult

from celery_partitions.model.computation import Computation
from celery_partitions.runtime.group import Group


class StandIn(Protocol):
    """Takes the place of the server for everything that this process sends and reads."""

    @property
    def group(self) -> Group:
        """The states that `state()`, `states()`, `keys()` and `forget()` use."""

    def take(self, computation: Computation, message: Any, message_id: str | None, options: dict[str, Any]) -> AsyncResult:
        """Take a checked and decoded message to a computation, which is not published. Raises `KeyExtractionError`."""


current: StandIn | None = None
