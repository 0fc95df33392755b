"""Computations that kill their process, never return, or fail, each with its own policy. The states are those of `sequences`.

The sleeps here are work that is interrupted. No test waits with them.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import time
from dataclasses import dataclass

import redis

from celery_partitions import Context, RetryPolicy, TimeLimitExceeded, app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

__all__ = ["Trouble", "alone", "app", "kill", "limited", "once", "policed", "second"]

#: While this Redis key is set, failing messages of `policed` fail.
BROKEN = "broken"
#: How often somebody kills a worker while it runs the message "killed beside", a number in Redis.
KILLS = "kills"


@dataclass
class Trouble:
    """A message and how it misbehaves: "" means not at all; else a word that its computation knows."""

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
    if trouble.do == "killed beside" and redis.Redis.from_url(os.environ["REDIS_URL"]).decr(KILLS) >= 0:
        os.kill(os.getpid(), signal.SIGKILL)
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
                    time.sleep(0.001)  # on Python 3.13 the jump of an empty loop is outside the `with`: the exception would pass it


@state_computation(name="policed", state=Sequence, key=trouble_key)
def policed(trouble: Trouble, state: Sequence) -> None:
    """Its policy comes from the settings, or from an operator."""
    state.numbers.append(trouble.number)
    if trouble.do == "fail" and redis.Redis.from_url(os.environ["REDIS_URL"]).exists(BROKEN):
        raise ValueError(f"{trouble.number} fails on purpose")


@state_computation(name="alone", state=Sequence, key=trouble_key, holds="computation", on_error="park")
def alone(trouble: Trouble, state: Sequence) -> None:
    """Like `policed`, but a failing message holds up no other computation of its key."""
    state.numbers.append(trouble.number)
    if trouble.do == "fail" and redis.Redis.from_url(os.environ["REDIS_URL"]).exists(BROKEN):
        raise ValueError(f"{trouble.number} fails on purpose")


@state_computation(name="once", state=Sequence, key=trouble_key, deduplicate=3600)
def once(trouble: Trouble, state: Sequence) -> None:
    state.numbers.append(trouble.number)
    if trouble.do == "fail":
        raise ValueError(f"{trouble.number} fails on purpose")


@state_computation(
    name="second", state=Sequence, key=trouble_key, time_limit=2, on_error=RetryPolicy(attempts=1, backoff_seconds=0.2, exhausted="dead_letter")
)
def second(trouble: Trouble, state: Sequence, context: Context) -> None:
    """The first try of each message fails. The second one does what the message says."""
    state.numbers.append(trouble.number)
    if context.attempt == 1:
        raise ValueError(f"{trouble.number} fails on purpose")
    if trouble.do == "exit":
        os._exit(3)
    if trouble.do == "sleep":
        time.sleep(60)
