"""The producer of the computations with rate limits: fills queues. Prints one line of JSON."""

from __future__ import annotations

import argparse
import json

from limited import COMPUTATIONS, Request


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--computation", choices=sorted(COMPUTATIONS), required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    options = parser.parse_args()
    COMPUTATIONS[options.computation].send_many((Request(f"{options.computation}-{number % options.keys}") for number in range(options.count)), progress=False)
    print(json.dumps({"sent": options.count}))


if __name__ == "__main__":
    main()
