"""Plain Celery: the task itself keeps the same state in a Redis hash. Default settings, no result backend."""

from __future__ import annotations

import os
import pickle
import time

import redis
from celery import Celery
from trades import Average, averaged

__all__ = ["app", "average_price"]

STATES = "plain-states"

app = Celery("plain", broker=os.environ["REDIS_URL"])
# Celery 5.7 warns unless this is set. It has no effect once the worker is connected.
app.conf.broker_connection_retry_on_startup = True

store = redis.Redis.from_url(os.environ["REDIS_URL"])

#: How long each message waits, as if for another service.
wait_seconds = float(os.environ.get("WAIT_SECONDS", "0"))

#: For the latency measure: the file to which the task writes when it ran, one line per message. Unset otherwise.
effects = os.environ.get("EFFECTS_FILE")
effects_file = os.open(effects, os.O_WRONLY | os.O_APPEND | os.O_CREAT) if effects else None


@app.task(name="average price")
def average_price(trade: dict[str, object]) -> None:
    """Read, unpickle, change, pickle, write: two round trips per message, and lost updates with two workers."""
    kept = store.hget(STATES, trade["symbol"])
    state = pickle.loads(kept) if kept else Average()
    if wait_seconds:
        time.sleep(wait_seconds)
    state.price = averaged(state.price, trade["price"])
    store.hset(STATES, trade["symbol"], pickle.dumps(state, protocol=5))
    if effects_file is not None:
        os.write(effects_file, f"{time.monotonic()}\n".encode())
