"""A bare event loop: the same waits and the same averages in a dictionary, without Redis, order or anything that survives the process.

Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import time

from trades import averaged, folded, trades


async def run(count: int, keys: int, concurrency: int, seconds: float) -> dict[str, float]:
    averages: dict[str, float] = {}
    messages = list(trades(count, keys))
    room = asyncio.Semaphore(concurrency)
    tasks = []

    async def call(number: int) -> None:
        trade = messages[number]
        try:
            await asyncio.sleep(seconds)
            averages[trade.symbol] = averaged(averages.get(trade.symbol, 0.0), trade.price)
        finally:
            room.release()

    began = time.monotonic()
    for number in range(count):
        await room.acquire()
        tasks.append(asyncio.create_task(call(number)))
    await asyncio.wait(tasks)
    elapsed = time.monotonic() - began
    # Calls of a key may overlap here, but equal waits end in order.
    return {"rate": count / elapsed, "wrong": sum(averages[key] != price for key, price in folded(count, keys).items())}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    parser.add_argument("--concurrency", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    options = parser.parse_args()
    print(json.dumps(asyncio.run(run(options.count, options.keys, options.concurrency, options.seconds))))


if __name__ == "__main__":
    main()
