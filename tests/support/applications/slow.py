"""Computations that take long or fail if the message says so. The states are those of `sequences`.

The sleep here is work that is measured or interrupted. No test waits with it.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

__all__ = ["Attempt", "Nap", "app", "fail", "sleep"]


@dataclass
class Nap:
    """A message that takes `seconds` to apply."""

    key: str
    number: int
    seconds: float


@dataclass
class Attempt:
    """A message whose computation raises if `fail`."""

    key: str
    number: int
    fail: bool = False


@key_extractor
def nap_key(nap: Nap) -> str:
    return nap.key


@key_extractor
def attempt_key(attempt: Attempt) -> str:
    return attempt.key


@state_computation(name="sleep", state=Sequence, key=nap_key)
def sleep(nap: Nap, state: Sequence) -> None:
    time.sleep(nap.seconds)
    state.numbers.append(nap.number)


@state_computation(name="fail", state=Sequence, key=attempt_key)
def fail(attempt: Attempt, state: Sequence) -> None:
    """Changes the state before it raises. The change must be rolled back."""
    state.numbers.append(attempt.number)
    if attempt.fail:
        raise ValueError(f"{attempt.number} fails on purpose")
