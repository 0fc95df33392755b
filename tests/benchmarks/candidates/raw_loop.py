"""The raw loop: the minimum that keeps state in Redis in batches, without any of our features.

It has no lease, no fencing, no commit number, no retry, no dead letter and no checks; one list and one process. It
fills its own queue with messages as stock Celery writes them, empties it, checks the result and prints one line of
JSON: messages/s from the first commit to the last. With `--fill-keys` every key first gets a state in Redis.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time

import redis
from envelopes import decoder, fill
from trades import Average, averaged, folded, one_trade_a_symbol

QUEUE, STATES = "raw-queue", "raw-states"
#: The default of BATCH_MESSAGES.
BATCH_MESSAGES = 2000
#: The default of PARTITIONS_STATE_CACHE_KEYS.
CACHE_KEYS = 100_000
#: Redis' Lua cannot unpack more than about 8000 values; 2000 fields with values are safe.
COMMIT = """
redis.call('LTRIM', KEYS[1], 0, -ARGV[1] - 1)
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
"""


def empty(client: redis.Redis) -> float:
    """Apply everything in the queue. Returns messages/s after the first commit."""
    commit = client.register_script(COMMIT)
    decode = decoder()
    states: dict[str, Average] = {}
    first_commit_at, applied = 0.0, 0
    while batch := client.lrange(QUEUE, -BATCH_MESSAGES, -1):
        changed: dict[str, Average] = {}
        trades = [decode(raw) for raw in reversed(batch)]
        missing = list({trade.symbol: None for trade in trades if trade.symbol not in states})
        if missing:
            for symbol, stored in zip(missing, client.hmget(STATES, missing), strict=True):
                states[symbol] = Average() if stored is None else pickle.loads(stored)
        for trade in trades:
            state = states[trade.symbol]
            state.price = averaged(state.price, trade.price)
            changed[trade.symbol] = state
        fields: list[str | bytes] = []
        for symbol, state in changed.items():
            fields += (symbol, pickle.dumps(state, protocol=5))
        commit(keys=[QUEUE, STATES], args=[len(batch), *fields])
        if len(states) > CACHE_KEYS:
            states.clear()
        if first_commit_at:
            applied += len(batch)
        else:
            first_commit_at = time.monotonic()
    return applied / (time.monotonic() - first_commit_at)


def fill_keys(client: redis.Redis, keys: int) -> None:
    """Write a state for every key, as if it had received one trade."""
    pipeline = client.pipeline(transaction=False)
    for number, trade in enumerate(one_trade_a_symbol(keys), start=1):
        state = Average()
        state.price = averaged(state.price, trade.price)
        pipeline.hset(STATES, trade.symbol, pickle.dumps(state, protocol=5))
        if number % BATCH_MESSAGES == 0 or number == keys:
            pipeline.execute()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--fill-keys", action="store_true")
    options = parser.parse_args()
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    if options.fill_keys:
        fill_keys(client, options.keys)
    fill(client, QUEUE, options.count, options.keys)
    rate = empty(client)
    kept = {key.decode(): pickle.loads(value).price for key, value in client.hgetall(STATES).items()}
    expected = folded(options.count, options.keys, after_one_each=options.fill_keys)
    print(json.dumps({"rate": rate, "wrong": sum(kept.get(key) != price for key, price in expected.items())}))


if __name__ == "__main__":
    main()
