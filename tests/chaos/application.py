"""What the workers of a chaos run compute, on the real engine or on a broken one (`BROKEN_ENGINE`).

The state of a key is the history of its messages (`acts`). Calls that wait, limits, timers, sends and expiry have files of their own.
"""

from __future__ import annotations

import os
from pathlib import Path

from celery_partitions import (
    Context,
    RedisList,
    RedisStream,
    build_application,
    key_extractor,
    source,
    state_computation,
    state_computation_multi,
)
from tests.chaos import sends
from tests.chaos.acts import GIVE_UP, GO_ON, LIMIT_SECONDS, Act, History, act_key, act_out
from tests.chaos.batches import play_async_batches, play_batches
from tests.chaos.calls import play_async, play_in_threads
from tests.chaos.expiry import live, remember
from tests.chaos.limits import play_shared, play_slowly
from tests.chaos.timers import plan
from tests.faults.engines import app

__all__ = ["COMPUTATIONS", "app", "flow", "note", "play", "play_on", "play_once"]


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

COMPUTATIONS = (
    *(play, play_on, play_once, *map(pipeline.stage, ("start", "middle", "finish"))),
    *(play_async, play_in_threads, play_shared, play_slowly, plan, live, remember, play_batches, play_async_batches),
    *(*sends.TELLERS, sends.hear),
)


@app.task(name="note", ignore_result=True)
def note(number: int) -> None:
    """A plain Celery task in a partition's queue. It runs at least once. Each line is written to the file in one piece."""
    with Path(os.environ["CHAOS_NOTES"]).open("a") as notes:
        notes.write(f"{number}\n")
