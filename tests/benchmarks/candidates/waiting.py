"""Ours: computations that wait, as a user would write them. `celery -A waiting worker`."""

from __future__ import annotations

import asyncio
import os
import time

from trades import Average, Trade, averaged

from celery_partitions import app, key_extractor, state_computation

__all__ = ["COMPUTATIONS", "app"]

#: How long each call waits, as if for another service.
SHORT_SECONDS, LONG_SECONDS, BLOCKING_SECONDS = 0.002, 0.1, 0.02
#: The message of this symbol hangs.
HANGING, HANGING_SECONDS = "hangs", 30.0
#: A file to which a counted call writes when it begins, one line each.
BEGINS = os.environ.get("BEGINS_FILE")
begins = os.open(BEGINS, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if BEGINS else None


@key_extractor
def symbol_of(trade: Trade) -> str:
    return trade.symbol


@state_computation("average price, async", state=Average, key=symbol_of)
async def short(trade: Trade, state: Average) -> None:
    await asyncio.sleep(HANGING_SECONDS if trade.symbol == HANGING else SHORT_SECONDS)
    state.price = averaged(state.price, trade.price)


@state_computation("average price, long", state=Average, key=symbol_of, concurrency=1000)
async def long(trade: Trade, state: Average) -> None:
    await asyncio.sleep(LONG_SECONDS)
    state.price = averaged(state.price, trade.price)


@state_computation("average price, threads", state=Average, key=symbol_of, executor="threads", concurrency=32)
def threads(trade: Trade, state: Average) -> None:
    time.sleep(BLOCKING_SECONDS)
    state.price = averaged(state.price, trade.price)


@state_computation("average price, counted", state=Average, key=symbol_of, concurrency=1000)
async def counted(trade: Trade, state: Average) -> None:
    if begins is not None:
        os.write(begins, f"{time.monotonic()} {trade.symbol}\n".encode())
    await asyncio.sleep(HANGING_SECONDS)
    state.price = averaged(state.price, trade.price)


COMPUTATIONS = {"short": short, "long": long, "threads": threads, "counted": counted}
