"""The producer of plain Celery: `apply_async` in a loop, at full speed or at a constant rate.

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import json
import pickle
import time
from dataclasses import asdict

from pace import paced
from plain import STATES, average_price, store
from trades import Trade, folded, trades


def send(trade: Trade) -> None:
    """How a producer without our package sends."""
    average_price.apply_async((asdict(trade),))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["fill", "pace", "check"])
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--rate", type=float, default=300.0)
    options = parser.parse_args()
    messages = list(trades(options.count, options.keys))
    match options.action:
        case "fill":
            started_at = time.monotonic()
            for message in messages:
                send(message)
            print(json.dumps({"started_at": started_at, "seconds": time.monotonic() - started_at}))
        case "pace":
            print(json.dumps(paced(messages, options.rate, send)))
        case "check":
            kept = {key.decode(): pickle.loads(value).price for key, value in store.hgetall(STATES).items()}
            expected = folded(options.count, options.keys)
            wrong = [key for key, price in expected.items() if kept.get(key) != price]
            print(json.dumps({"wrong": len(wrong), "keys": len(expected)}))


if __name__ == "__main__":
    main()
