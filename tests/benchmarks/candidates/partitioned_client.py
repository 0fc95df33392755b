"""Our producer: fills queues in bulk, sends at a constant rate, and checks the resulting states.

Prints one line of JSON. Times are seconds on the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import json
import time

from pace import paced
from partitioned import COMPUTATIONS
from trades import folded, one_trade_a_symbol, trades


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["fill", "fill-keys", "pace", "check"])
    parser.add_argument("--computation", choices=sorted(COMPUTATIONS), default="plain")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--rate", type=float, default=300.0)
    options = parser.parse_args()
    computation = COMPUTATIONS[options.computation]
    match options.action:
        case "fill":
            # Created before the clock starts, as with apply_async: only sending is timed.
            messages = list(trades(options.count, options.keys))
            started_at = time.monotonic()
            computation.send_many(messages, progress=False)
            print(json.dumps({"started_at": started_at, "seconds": time.monotonic() - started_at}))
        case "fill-keys":
            computation.send_many(one_trade_a_symbol(options.keys), progress=False)
            print(json.dumps({}))
        case "pace":
            messages = list(trades(options.count, options.keys))
            print(json.dumps(paced(messages, options.rate, computation.delay)))
        case "check":
            expected = folded(options.count, options.keys)
            wrong = [key for key, price in expected.items() if computation.state(key).price != price]
            print(json.dumps({"wrong": len(wrong), "keys": len(expected)}))


if __name__ == "__main__":
    main()
