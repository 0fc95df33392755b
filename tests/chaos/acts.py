"""A message of a chaos run, what its computation does, and the history that it leaves in the state.

The sleep is work that is interrupted. No test waits with it.
"""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass

from celery_partitions import Context, RetryPolicy, key_extractor

#: For `Act.raises`: raise at every attempt.
ALWAYS = -1
#: How many attempts a failing message gets in all. Its dead letter has this number too.
TRIES = 2
#: Longer than any message that does not hang. A message on a frozen worker also takes longer: it fails and is retried.
LIMIT_SECONDS = 0.5
HANG_SECONDS = 60.0
#: Longer than a lease in this run.
HOLD_SECONDS = 2.0
#: The exit code of a worker that a message kills.
EXIT_CODE = 3


@dataclass
class Act:
    """One message: it appends `number` to the state of `key`, after raising in its first `raises` attempts."""

    key: str
    number: int
    raises: int = 0
    seconds: float = 0.0
    #: Kills the worker's process.
    kills: bool = False
    #: "sleep" and "spin": the first attempt takes longer than the time limit, in C or in Python. "hold": every attempt holds
    #: the interpreter lock for longer than a lease.
    hangs: str = ""


class History:
    """The numbers of one key, in the order applied."""

    numbers: list[int] = []  # noqa: RUF012 - each key gets its own copy


@key_extractor
def act_key(act: Act) -> str:
    return act.key


def act_out(act: Act, state: History, context: Context) -> None:
    """Work for the act's time, then do what it says."""
    time.sleep(act.seconds)
    do(act, state, context)


def do(act: Act, state: History, context: Context) -> None:
    """Changes the state before it raises or kills the process. The change must be rolled back."""
    state.numbers.append(act.number)
    if act.kills:
        os._exit(EXIT_CODE)
    if act.hangs == "hold":
        ctypes.PyDLL(None).usleep(int(HOLD_SECONDS * 1e6))
    elif context.attempt == 1:
        hang(act.hangs)
    if act.raises == ALWAYS or context.attempt <= act.raises:
        raise ValueError(f"{act.number} raises at attempt {context.attempt}")


def hang(how: str) -> None:
    until = time.monotonic() + HANG_SECONDS
    match how:
        case "sleep":
            time.sleep(HANG_SECONDS)
        case "spin":
            while time.monotonic() < until:
                pass


GIVE_UP = RetryPolicy(attempts=TRIES - 1, backoff_seconds=0.1, exhausted="dead_letter")
#: The same number of attempts, but then the key stays parked and is retried forever.
GO_ON = RetryPolicy(attempts=TRIES - 1, backoff_seconds=0.1, longest_backoff_seconds=0.3, exhausted="park")
