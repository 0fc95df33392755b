"""Ours: the measured application, as a user would write it. `celery -A partitioned worker`."""

from __future__ import annotations

import os
import time

from trades import Average, Trade, averaged

from celery_partitions import Context, Timer, app, key_extractor, state_computation

__all__ = ["COMPUTATIONS", "app"]

#: How long a slow computation waits or computes.
SLOW_SECONDS = 0.002


@key_extractor
def symbol_of(trade: Trade) -> str:
    return trade.symbol


@state_computation(name="average price", state=Average, key=symbol_of)
def average_price(trade: Trade, state: Average) -> None:
    state.price = averaged(state.price, trade.price)


@state_computation(name="average price, waiting", state=Average, key=symbol_of)
def average_price_waiting(trade: Trade, state: Average) -> None:
    """Like a computation that calls another service."""
    time.sleep(SLOW_SECONDS)
    state.price = averaged(state.price, trade.price)


@state_computation(name="average price, computing", state=Average, key=symbol_of)
def average_price_computing(trade: Trade, state: Average) -> None:
    """Like a computation that evaluates a model: it uses processor time instead of waiting."""
    until = time.thread_time() + SLOW_SECONDS
    while time.thread_time() < until:
        pass
    state.price = averaged(state.price, trade.price)


@state_computation(name="average price, batches", state=Average, key=symbol_of, flush_every=100, flush_interval=0.1)
def average_price_batches(trades: list[Trade], state: Average) -> None:
    """Up to 100 trades in one call."""
    for trade in trades:
        state.price = averaged(state.price, trade.price)


@state_computation(name="average price, waiting batches", state=Average, key=symbol_of, flush_every=100, flush_interval=0.1)
def average_price_waiting_batches(trades: list[Trade], state: Average) -> None:
    """Like one bulk request for up to 100 trades."""
    time.sleep(SLOW_SECONDS)
    average_price_batches(trades, state)


@state_computation(name="average price, once", state=Average, key=symbol_of, deduplicate=3600)
def average_price_once(trade: Trade, state: Average) -> None:
    """Like `average_price`, but every id is looked up and remembered."""
    state.price = averaged(state.price, trade.price)


@state_computation(name="average price, context", state=Average, key=symbol_of)
def average_price_context(trade: Trade, state: Average, context: Context) -> None:
    """Takes a context and uses nothing of it."""
    state.price = averaged(state.price, trade.price)


@state_computation(name="average price, timer", state=Average, key=symbol_of)
def average_price_timer(trade: Trade, state: Average, context: Context) -> None:
    """Moves a timer with each message."""
    state.price = averaged(state.price, trade.price)
    context.timers.set("quiet", after=3600)


@average_price_timer.on_timer("quiet")
def quiet(timer: Timer, state: Average) -> None: ...


@state_computation(name="average price, ttl", state=Average, key=symbol_of, ttl=3600)
def average_price_ttl(trade: Trade, state: Average) -> None:
    """Each key expires."""
    state.price = averaged(state.price, trade.price)


@state_computation(name="average price, expiring", state=Average, key=symbol_of, ttl=float(os.environ.get("BENCH_TTL", "3600")))
def average_price_expiring(trade: Trade, state: Average) -> None:
    """Each key expires soon."""
    state.price = averaged(state.price, trade.price)


@state_computation(name="alarm", state=Average, key=symbol_of)
def alarm(trade: Trade, state: Average, context: Context) -> None:
    """Sets a timer. The price is when it is due, in seconds since the epoch."""
    context.timers.set("ring", at=trade.price)


@alarm.on_timer("ring")
def ring(timer: Timer, state: Average) -> None:
    """Notes how late it is, in seconds."""
    state.price = (timer.fired - timer.due).total_seconds()


@state_computation(name="asked", state=Average, key=symbol_of, reply=True)
def asked(trade: Trade, state: Average) -> float:
    state.price = averaged(state.price, trade.price)
    return state.price


@app.task(name="note", ignore_result=True, queue="notes")
def note(symbol: str, price: float) -> None:
    """What `average_price_sending` sends. No worker runs it."""


@state_computation(name="average price, sending", state=Average, key=symbol_of)
def average_price_sending(trade: Trade, state: Average) -> None:
    """Sends a plain task for each message, with the commit."""
    state.price = averaged(state.price, trade.price)
    note.delay(trade.symbol, state.price)


COMPUTATIONS = {
    "context": average_price_context,
    "timer": average_price_timer,
    "ttl": average_price_ttl,
    "expiring": average_price_expiring,
    "alarm": alarm,
    "asked": asked,
    "sending": average_price_sending,
    "plain": average_price,
    "batches": average_price_batches,
    "waiting-batches": average_price_waiting_batches,
    "once": average_price_once,
    "waiting": average_price_waiting,
    "computing": average_price_computing,
}
