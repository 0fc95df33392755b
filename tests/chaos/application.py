"""What the workers of a chaos run compute, on the engine as it is or (`BROKEN_ENGINE`) broken on purpose.

The state of a key is the history of its messages. The sleep is the work that is interrupted, not a wait of a test's.
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

#: Of `Act.raises`: at every try.
ALWAYS = -1
#: A message that raises is tried so often in all, and its dead letter tells so.
TRIES = 2
#: Longer than any message but one that hangs. A frozen worker's takes longer too: it fails, and is tried again.
LIMIT_SECONDS = 0.5
HANG_SECONDS = 60.0
#: Longer than a lease of the run.
HOLD_SECONDS = 2.0
#: How a worker ends over a message that ends it.
EXIT_CODE = 3


@dataclass
class Act:
    """One message: `number` is to be appended to the state of `key`, after `raises` tries that raise."""

    key: str
    number: int
    raises: int = 0
    seconds: float = 0.0
    #: Ends the worker's process.
    kills: bool = False
    #: At its first try it takes longer than its time limit, in C ("sleep") or in Python ("spin"). "hold": at every try it holds the
    #: interpreter lock for longer than a lease.
    hangs: str = ""


class History:
    """The numbers of one key, in the order applied."""

    numbers: list[int] = []  # noqa: RUF012 - each key gets its own copy


@key_extractor
def act_key(act: Act) -> str:
    return act.key


def act_out(act: Act, state: History, context: Context) -> None:
    """Changes the state before it raises or ends the process: the change must be gone."""
    time.sleep(act.seconds)
    state.numbers.append(act.number)
    if act.kills:
        os._exit(EXIT_CODE)
    if act.hangs == "hold":
        ctypes.PyDLL(None).usleep(int(HOLD_SECONDS * 1e6))
    elif context.attempt == 1:
        hang(act.hangs)
    if act.raises == ALWAYS or context.attempt <= act.raises:
        raise ValueError(f"{act.number} raises at try {context.attempt}")


def hang(how: str) -> None:
    until = time.monotonic() + HANG_SECONDS
    match how:
        case "sleep":
            time.sleep(HANG_SECONDS)
        case "spin":
            while time.monotonic() < until:
                pass


GIVE_UP = RetryPolicy(attempts=TRIES - 1, backoff_seconds=0.1, exhausted="dead_letter")
#: Used up as soon, but tried on in its place.
GO_ON = RetryPolicy(attempts=TRIES - 1, backoff_seconds=0.1, longest_backoff_seconds=0.3, exhausted="park")


@state_computation(name="play", state=History, key=act_key, on_error=GIVE_UP)
def play(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)


@state_computation(name="play on", state=History, key=act_key, on_error=GO_ON, time_limit=LIMIT_SECONDS)
def play_on(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)


@state_computation(name="play once", state=History, key=act_key, on_error=GIVE_UP, deduplicate=600)
def play_once(act: Act, state: History, context: Context) -> None:
    act_out(act, state, context)


# A pipeline of three stages, which two hops apart from each other; each hop gives a key another name.

#: What stands before a key in each stage.
PREFIXES = ("", "turned ", "back ")
STREAM, LIST = "played", "played in a list"


def stage_of(number: int) -> int:
    """At which of the stages a message does what it is to do."""
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
    """A plain Celery task in a partition's queue; runs at least once. A line of the file is written whole."""
    with Path(os.environ["CHAOS_NOTES"]).open("a") as notes:
        notes.write(f"{number}\n")
