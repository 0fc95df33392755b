"""Finds the computation and the key of a raw message, outside the worker's loop."""

from __future__ import annotations

from collections.abc import Mapping

from celery_partitions.model.computation import Computation
from celery_partitions.model.items import decoded, key_in_header, no_values
from celery_partitions.model.messages import open_envelope


def key_in(raw: bytes, computations: Mapping[str, Computation]) -> tuple[str, str] | None:
    """A message's computation name and key. None if this process has no such computation, or the message can't be read.

    Never raises because of a message's content. Not fast: for samples and files.
    """
    try:
        envelope = open_envelope(raw)
        computation = computations.get(envelope.headers.task)
        if computation is None:
            return None
        if computation.role in ("stage", "timer"):
            return computation.name, key_in_header(computation.name, envelope.headers.partition_key)
        return computation.name, computation.key_of(decoded(computation, envelope, no_values))
    except (Exception, SystemExit):  # a bad message, or the user's extractor
        return None
