"""The raw loop: the least that keeps state in Redis by batches, with none of our features.

No lease, no fence, no position, no retry, no dead letter, no check of anything; one list, one process. It
fills its own queue with the messages that stock Celery writes, empties it, checks the result and prints one
line of JSON: messages/s from the first commit to the last.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import time

import redis
from envelopes import decoder, fill
from trades import Average, averaged, folded

QUEUE, STATES = "raw-queue", "raw-states"
#: The same batch as BATCH_MESSAGES has by default.
BATCH_MESSAGES = 2000
#: Redis' Lua can't unpack more than about 8000 values: 2000 fields and values are safe.
COMMIT = """
redis.call('LTRIM', KEYS[1], 0, -ARGV[1] - 1)
redis.call('HSET', KEYS[2], unpack(ARGV, 2))
"""


def empty(client: redis.Redis) -> float:
    """Apply everything in the queue; messages/s after the first commit."""
    commit = client.register_script(COMMIT)
    decode = decoder()
    states: dict[str, Average] = {}
    first_commit_at, applied = 0.0, 0
    while batch := client.lrange(QUEUE, -BATCH_MESSAGES, -1):
        changed: dict[str, Average] = {}
        for raw in reversed(batch):
            trade = decode(raw)
            state = states.get(trade.symbol)
            if state is None:
                state = states[trade.symbol] = Average()
            state.price = averaged(state.price, trade.price)
            changed[trade.symbol] = state
        fields: list[str | bytes] = []
        for symbol, state in changed.items():
            fields += (symbol, pickle.dumps(state, protocol=5))
        commit(keys=[QUEUE, STATES], args=[len(batch), *fields])
        if first_commit_at:
            applied += len(batch)
        else:
            first_commit_at = time.monotonic()
    return applied / (time.monotonic() - first_commit_at)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    options = parser.parse_args()
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    fill(client, QUEUE, options.count, options.keys)
    rate = empty(client)
    kept = {key.decode(): pickle.loads(value).price for key, value in client.hgetall(STATES).items()}
    expected = folded(options.count, options.keys)
    print(json.dumps({"rate": rate, "wrong": sum(kept.get(key) != price for key, price in expected.items())}))


if __name__ == "__main__":
    main()
