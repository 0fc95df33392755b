"""Batch computations: plain, and as a coroutine. Messages gather for a time in which faults can hit them."""

from __future__ import annotations

import asyncio

from celery_partitions import Context, state_computation
from tests.chaos.acts import GIVE_UP, Act, History, act_key, act_out, do

FLUSH_EVERY, FLUSH_SECONDS = 20, 0.3


@state_computation(name="play batches", state=History, key=act_key, on_error=GIVE_UP, flush_every=FLUSH_EVERY, flush_interval=FLUSH_SECONDS)
def play_batches(acts: list[Act], state: History, context: Context) -> None:
    for act in acts:
        act_out(act, state, context)


@state_computation(name="play async batches", state=History, key=act_key, on_error=GIVE_UP, flush_every=FLUSH_EVERY, flush_interval=FLUSH_SECONDS)
async def play_async_batches(acts: list[Act], state: History, context: Context) -> None:
    for act in acts:
        await asyncio.sleep(act.seconds)
        do(act, state, context)
