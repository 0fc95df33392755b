"""A computation whose keys are bytes that need not be UTF-8, like the names of an old system."""

from __future__ import annotations

from celery_partitions import app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence, Step

__all__ = ["app", "record_latin"]


@key_extractor
def latin_key(step: Step) -> bytes:
    return step.key.encode("latin-1")


@state_computation(name="record latin", state=Sequence, key=latin_key)
def record_latin(step: Step, state: Sequence) -> None:
    state.numbers.append(step.number)
