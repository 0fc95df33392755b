"""Calls that wait: coroutines, and blocking functions in threads. The recorder sees their starts and ends."""

from __future__ import annotations

import asyncio

from celery_partitions import Context, state_computation
from tests.chaos.acts import GIVE_UP, GO_ON, LIMIT_SECONDS, Act, History, act_key, act_out, do
from tests.chaos.recorder import recorded


@state_computation(name="play async", state=History, key=act_key, on_error=GIVE_UP, concurrency=50)
async def play_async(act: Act, state: History, context: Context) -> None:
    with recorded(play_async.name, act, context):
        await asyncio.sleep(act.seconds / 2)
        await asyncio.sleep(act.seconds / 2)
        do(act, state, context)


@state_computation(
    name="play in threads", state=History, key=act_key, on_error=GO_ON, executor="threads", concurrency=8, time_limit=LIMIT_SECONDS, holds="computation"
)
def play_in_threads(act: Act, state: History, context: Context) -> None:
    with recorded(play_in_threads.name, act, context):
        act_out(act, state, context)
