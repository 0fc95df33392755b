"""The producer of our pipelines: fills the source's queues, and checks the states of every stage. Prints one line of JSON."""

from __future__ import annotations

import argparse
import json

from pipelined import SOURCES, STAGES
from trades import folded, trades


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("action", choices=["fill", "check"])
    parser.add_argument("--pipeline", choices=sorted(SOURCES), required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    options = parser.parse_args()
    if options.action == "fill":
        SOURCES[options.pipeline].send_many(trades(options.count, options.keys), progress=False)
        print(json.dumps({}))
        return
    expected = folded(options.count, options.keys)
    wrong = 0
    for stage, is_reversed in STAGES[options.pipeline]:
        for symbol, price in expected.items():
            state = stage.state(symbol[::-1] if is_reversed else symbol)
            wrong += state is None or (not is_reversed and state.price != price)
    print(json.dumps({"wrong": wrong, "keys": len(expected)}))


if __name__ == "__main__":
    main()
