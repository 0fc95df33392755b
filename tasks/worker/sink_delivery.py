"""What leaves a batch for the outside before its commit: computations that deliver all of it at once."""

from __future__ import annotations

from collections.abc import Mapping

from celery_partitions.model.computation import Computation
from celery_partitions.model.outcome import Outcome


class NotDelivered(Exception):
    """The other side is not there, or does not take it. The batch stays where it is and is tried again after `rest_seconds`."""

    def __init__(self, text: str, rest_seconds: float) -> None:
        super().__init__(text)
        self.rest_seconds = rest_seconds


def flush(computations: Mapping[str, Computation], outcome: Outcome) -> None:
    """Called for each batch, before its commit. Raises what a computation's `flush` raises."""
    for computation in computations.values():
        if computation.flush is not None:
            messages = [work.message for work in outcome.done if work.computation is computation]
            if messages:
                computation.flush(messages)


def prepare(computations: Mapping[str, Computation]) -> None:
    """Called by a worker that holds a partition, whenever it begins to wait for messages."""
    for computation in computations.values():
        if computation.prepare is not None:
            computation.prepare()
