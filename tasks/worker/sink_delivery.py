"""Delivery to the outside before a batch is committed, by computations that write a whole batch together (sinks)."""

from __future__ import annotations

from collections.abc import Mapping

from celery_partitions.model.computation import Computation
from celery_partitions.model.outcome import Outcome


class NotDelivered(Exception):
    """The other side is unreachable or refuses the data. The batch stays in its queue and is retried after `rest_seconds`."""

    def __init__(self, text: str, rest_seconds: float) -> None:
        super().__init__(text)
        self.rest_seconds = rest_seconds


def flush(computations: Mapping[str, Computation], outcome: Outcome) -> None:
    """Deliver a batch before its commit. Raises what a computation's `flush` raises."""
    for computation in computations.values():
        if computation.flush is not None:
            messages = [work.message for work in outcome.done if work.computation is computation]
            if messages:
                computation.flush(messages)


def prepare(computations: Mapping[str, Computation]) -> None:
    """Let sinks connect early. Called whenever a worker that owns a partition starts to wait for messages."""
    for computation in computations.values():
        if computation.prepare is not None:
            computation.prepare()
