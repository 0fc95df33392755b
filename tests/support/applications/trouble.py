"""Computations that end their process, never return, or fail by one policy each; the states are as in `sequences`.

The sleeps here are what is interrupted, not a wait of a test's.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import time
from dataclasses import dataclass

import redis

from celery_partitions import RetryPolicy, TimeLimitExceeded, app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

__all__ = ["Trouble", "app", "kill", "limited", "once", "policed"]

#: The value of this Redis key decides whether a message of `policed` fails: while it is set.
BROKEN = "broken"


@dataclass
class Trouble:
    """A message and what it does: "" nothing, or one of the words its computation knows."""

    key: str
    number: int
    do: str = ""


@key_extractor
def trouble_key(trouble: Trouble) -> str:
    return trouble.key


@state_computation(name="kill", state=Sequence, key=trouble_key)
def kill(trouble: Trouble, state: Sequence) -> None:
    state.numbers.append(trouble.number)
    if trouble.do == "exit":
        os._exit(3)
    if trouble.do == "segfault":
        ctypes.string_at(0)
    if trouble.do == "hold":  # the interpreter lock, for longer than a lease of the tests
        ctypes.PyDLL(None).sleep(3)


@state_computation(
    name="limited",
    state=Sequence,
    key=trouble_key,
    time_limit=0.3,
    on_error=RetryPolicy(attempts=1, backoff_seconds=0.1, exhausted="dead_letter"),
)
def limited(trouble: Trouble, state: Sequence) -> None:
    state.numbers.append(trouble.number)
    until = time.monotonic() + 60
    match trouble.do:
        case "spin":
            while time.monotonic() < until:
                pass
        case "sleep":
            time.sleep(60)
        case "swallow":
            with contextlib.suppress(TimeLimitExceeded):
                while time.monotonic() < until:
                    pass


@state_computation(name="policed", state=Sequence, key=trouble_key)
def policed(trouble: Trouble, state: Sequence) -> None:
    """Its policy is the settings', or what an operator says."""
    state.numbers.append(trouble.number)
    if trouble.do == "fail" and redis.Redis.from_url(os.environ["REDIS_URL"]).exists(BROKEN):
        raise ValueError(f"{trouble.number} was told to fail")


@state_computation(name="once", state=Sequence, key=trouble_key, deduplicate=3600)
def once(trouble: Trouble, state: Sequence) -> None:
    state.numbers.append(trouble.number)
    if trouble.do == "fail":
        raise ValueError(f"{trouble.number} was told to fail")
