"""The producer of `hot_key`: quiet keys at a constant rate, and one key that sends 100 times what all of them send. Prints one line of JSON."""

from __future__ import annotations

import argparse
import json
import time

from hot_key import HOT, Deed, do

QUIET_KEYS = 50
TIMES = 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True, help="messages of quiet keys")
    parser.add_argument("--rate", type=float, required=True, help="of them, per second")
    parser.add_argument("--hot", action="store_true")
    options = parser.parse_args()
    begun, hot = time.monotonic(), 0
    for number in range(options.count):
        due = begun + number / options.rate
        while (now := time.monotonic()) < due:
            wanted = int((now - begun) * options.rate * TIMES) - hot if options.hot else 0
            if wanted:
                do.send_many([Deed(HOT, now)] * wanted, progress=False)
                hot += wanted
            time.sleep(0.002)
        do.delay(Deed(f"quiet-{number % QUIET_KEYS}", time.monotonic()))
    count = 0
    give_up = time.monotonic() + 10
    while count < options.count and time.monotonic() < give_up:
        time.sleep(0.05)
        states = do.states([f"quiet-{number}" for number in range(QUIET_KEYS)])
        count = sum(state.count for state in states.values())
    done = do.state(HOT)
    print(json.dumps({"wrong": max(0, options.count - count), "hot": hot, "done": 0 if done is None else done.count, "seconds": time.monotonic() - begun}))


if __name__ == "__main__":
    main()
