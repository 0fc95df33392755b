"""Which computation and key a raw message is for, outside the worker's loop."""

from __future__ import annotations

from collections.abc import Mapping

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import decoded, key_in_header, no_values
from celery_partitions.model.messages import open_envelope


def key_in(raw: bytes, computations: Mapping[str, Computation]) -> tuple[str, str] | None:
    """A message's computation name and key; None for one of no computation here, or that can't be read.

    Never raises for what a message holds. Not fast: for samples and files.
    """
    try:
        envelope = open_envelope(raw)
        computation = computations.get(envelope.headers.task)
        if computation is None:
            return None
        if computation.role == "stage":
            return computation.name, key_in_header(computation, envelope.headers.partition_key)
        return computation.name, computation.key_of(decoded(computation, envelope, no_values))
    except (Exception, SystemExit):  # a bad message, or the user's extractor
        return None
