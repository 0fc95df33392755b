"""What the workers of a chaos run compute, on the real engine or on a broken one (`BROKEN_ENGINE`).

The state of a key is the history of its messages. The sleep is work that is interrupted. No test waits with it.
"""

from __future__ import annotations

import ctypes
import os
import time
from dataclasses import dataclass
from pathlib import Path

from celery_partitions import (
    Context,
    RedisList,
    RedisStream,
    RetryPolicy,
    build_application,
    key_extractor,
    source,
    state_computation,
    state_computation_multi,
)
from tests.faults.engines import app

__all__ = ["ALWAYS", "COMPUTATIONS", "Act", "History", "app", "flow", "note", "play", "play_on", "play_once"]

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
    """Changes the state before it raises or kills the process. The change must be rolled back."""
    time.sleep(act.seconds)
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


@state_computation(name="play", state=History, key=act_key, on_error=GIVE_UP)
def play(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)


@state_computation(name="play on", state=History, key=act_key, on_error=GO_ON, time_limit=LIMIT_SECONDS, holds="computation")
def play_on(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)


@state_computation(name="play once", state=History, key=act_key, on_error=GIVE_UP, deduplicate=600)
def play_once(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)


# A pipeline of three stages, separated by two hops. Each hop renames the keys.

#: The prefix of a key in each stage.
PREFIXES = ("", "turned ", "back ")
STREAM, LIST = "played", "played in a list"


def stage_of(number: int) -> int:
    """The stage at which a message raises, kills or hangs."""
    return number % len(PREFIXES)


def act_at(stage: int, act: Act, state: History, context: Context) -> Act:
    if stage_of(act.number) == stage:
        act_out(act, state, context)
    else:
        state.numbers.append(act.number)
    return act


@state_computation_multi("start", state=History, on_error=GIVE_UP)
def start(act: Act, state: History, context: Context) -> list[Act | None]:
    return [None, act_at(0, act, state, context)]


@state_computation("middle", state=History, on_error=GIVE_UP)
def middle(act: Act, state: History, context: Context) -> Act:
    return act_at(1, act, state, context)


@state_computation("finish", state=History, on_error=GIVE_UP)
def finish(act: Act, state: History, context: Context) -> list[object]:
    act_at(2, act, state, context)
    return [act.key, act.number]


@key_extractor
def turned_key(act: Act) -> str:
    return f"{PREFIXES[1]}{act.key}"


@key_extractor
def key_back(act: Act) -> str:
    return f"{PREFIXES[2]}{act.key}"


flow = source("flow")
pipeline = build_application(
    "flow",
    flow.key_by(act_key).to(start).key_by(turned_key).to(middle).key_by(key_back).to(finish)
    .to_sinks([RedisStream(STREAM), RedisList(LIST)]),
)  # fmt: skip

COMPUTATIONS = (play, play_on, play_once, *map(pipeline.stage, ("start", "middle", "finish")))


@app.task(name="note", ignore_result=True)
def note(number: int) -> None:
    """A plain Celery task in a partition's queue. It runs at least once. Each line is written to the file in one piece."""
    with Path(os.environ["CHAOS_NOTES"]).open("a") as notes:
        notes.write(f"{number}\n")
