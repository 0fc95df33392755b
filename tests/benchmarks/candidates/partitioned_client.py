"""Our producer: fills queues in bulk, sends at a constant rate, and checks the resulting states.

Prints one line of JSON. Times are seconds on the monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

import argparse
import json
import time

from pace import paced
from partitioned import COMPUTATIONS, alarm, asked
from trades import Trade, folded, one_trade_a_symbol, trades


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["fill", "fill-keys", "pace", "check", "set-timers", "lateness", "call"])
    parser.add_argument("--computation", choices=sorted(COMPUTATIONS), default="plain")
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--rate", type=float, default=300.0)
    parser.add_argument("--after", type=float, default=0.0)
    parser.add_argument("--spread", type=float, default=0.0)
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
        case "set-timers":
            begin, step = time.time() + options.after, options.spread / options.keys
            alarm.send_many((Trade(f"S{number}", begin + step * number) for number in range(options.keys)), progress=False)
            print(json.dumps({"begin": begin}))
        case "lateness":
            found = sorted(alarm.state(f"S{number}").price for number in range(options.keys))
            print(json.dumps({"p99": found[len(found) * 99 // 100]}))
        case "call":
            seconds, started_at = [], time.monotonic()
            for message in trades(options.count, options.keys):
                began = time.monotonic()
                asked.delay(message).get(timeout=60)
                seconds.append(time.monotonic() - began)
            p50, p99 = (sorted(seconds)[len(seconds) * percent // 100] for percent in (50, 99))
            print(json.dumps({"p50": p50, "p99": p99, "started_at": started_at, "ended_at": time.monotonic()}))
        case "check":
            expected = folded(options.count, options.keys)
            wrong = [key for key, price in expected.items() if computation.state(key).price != price]
            print(json.dumps({"wrong": len(wrong), "keys": len(expected)}))


if __name__ == "__main__":
    main()
