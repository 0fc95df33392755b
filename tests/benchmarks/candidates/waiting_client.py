"""The producer of our computations that wait: fills queues, and checks the resulting states. Prints one line of JSON."""

from __future__ import annotations

import argparse
import json

from trades import Trade, folded, one_trade_a_symbol, trades
from waiting import COMPUTATIONS, HANGING


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["fill", "fill-keys", "hang", "check"])
    parser.add_argument("--computation", choices=sorted(COMPUTATIONS), required=True)
    parser.add_argument("--count", type=int, default=0)
    parser.add_argument("--keys", type=int, default=0)
    options = parser.parse_args()
    computation = COMPUTATIONS[options.computation]
    wrong: list[str] = []
    match options.action:
        case "fill":
            computation.send_many(trades(options.count, options.keys), progress=False)
        case "fill-keys":
            computation.send_many(one_trade_a_symbol(options.keys), progress=False)
        case "hang":
            computation.delay(Trade(HANGING, 1.0))
        case "check":
            expected = folded(options.count, options.keys)
            found = computation.states(expected)
            wrong = [key for key, price in expected.items() if key not in found or found[key].price != price]
    print(json.dumps({"wrong": len(wrong)}))


if __name__ == "__main__":
    main()
