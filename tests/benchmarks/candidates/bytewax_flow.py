"""Bytewax 0.21: `stateful_map` with SQLite recovery and an epoch per batch. Runs in its own venv.

It runs twice: with the raw loop's messages read from a Redis list (the same work as ours), and with decoded messages
in memory (Bytewax's best case). In both, the state is a plain float, the list is never trimmed, and the recovery store
is on a memory file system if there is one: Bytewax gets every advantage.
Prints one line of JSON: messages/s from the first requested batch until the flow has ended.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from datetime import timedelta
from pathlib import Path

import bytewax.operators as op
import redis
from bytewax.dataflow import Dataflow
from bytewax.inputs import FixedPartitionedSource, StatefulSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition
from bytewax.recovery import RecoveryConfig
from bytewax.testing import run_main
from envelopes import decoder, fill
from trades import averaged, folded, trades

Item = tuple[str, float]
#: The number of a batch, from zero -> the batch; empty after the last one.
ReadBatch = Callable[[int], Sequence[Item]]

QUEUE = "bytewax-queue"
#: The default of BATCH_MESSAGES.
BATCH_MESSAGES = 2000

begun_at: list[float] = []
averages: dict[str, float] = {}


class Batches(StatefulSourcePartition[Item, int]):
    """Returns one batch after another. Its snapshot is the number of the next one."""

    def __init__(self, read: ReadBatch, resume: int) -> None:
        self._read, self._next = read, resume

    def next_batch(self) -> Iterable[Item]:
        if not begun_at:
            begun_at.append(time.monotonic())
        batch = self._read(self._next)
        if not batch:
            raise StopIteration
        self._next += 1
        return batch

    def snapshot(self) -> int:
        return self._next


class Trades(FixedPartitionedSource[Item, int]):
    """One partition, which a function reads."""

    def __init__(self, read: ReadBatch) -> None:
        self._read = read

    def list_parts(self) -> list[str]:
        return ["all"]

    def build_part(self, step_id: str, for_part: str, resume_state: int | None) -> Batches:
        return Batches(self._read, resume_state or 0)


def from_memory(count: int, keys: int) -> ReadBatch:
    """Batches that are created and decoded before the clock starts."""
    items = [(trade.symbol, trade.price) for trade in trades(count, keys)]
    batches = [items[start : start + BATCH_MESSAGES] for start in range(0, len(items), BATCH_MESSAGES)]
    return lambda number: batches[number] if number < len(batches) else ()


def from_redis(count: int, keys: int) -> ReadBatch:
    """Batches read from the right end of a list and decoded, as the raw loop does."""
    client = redis.Redis.from_url(os.environ["REDIS_URL"])
    fill(client, QUEUE, count, keys)
    decode = decoder()

    def read(number: int) -> list[Item]:
        oldest = -number * BATCH_MESSAGES - 1
        found = map(decode, reversed(client.lrange(QUEUE, oldest - BATCH_MESSAGES + 1, oldest)))
        return [(trade.symbol, trade.price) for trade in found]

    return read


class Keep(StatelessSinkPartition[Item]):
    """Keeps the newest average of each symbol, to check the result."""

    def write_batch(self, items: list[Item]) -> None:
        averages.update(items)


class KeepSink(DynamicSink[Item]):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Keep:
        return Keep()


def update(average: float | None, price: float) -> tuple[float, float]:
    """The computation: from state and message to new state and output."""
    new = averaged(average or 0.0, price)
    return new, new


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--messages", choices=["redis", "memory"], required=True)
    parser.add_argument("--count", type=int, required=True)
    parser.add_argument("--keys", type=int, required=True)
    options = parser.parse_args()
    read = {"redis": from_redis, "memory": from_memory}[options.messages](options.count, options.keys)

    flow = Dataflow("averages")
    source = op.input("trades", flow, Trades(read))
    op.output("keep", op.stateful_map("average", source, update), KeepSink())

    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as store:
        subprocess.run([sys.executable, "-m", "bytewax.recovery", store, "1"], check=True)
        # An interval of zero ends the epoch after each batch, which takes a snapshot.
        run_main(flow, epoch_interval=timedelta(0), recovery_config=RecoveryConfig(store))
        seconds = time.monotonic() - begun_at[0]
        written = sum(file.stat().st_size for file in Path(store).iterdir())
    expected = folded(options.count, options.keys)
    wrong = sum(averages.get(key) != price for key, price in expected.items())
    print(json.dumps({"rate": options.count / seconds, "wrong": wrong, "recovery_bytes": written}))


if __name__ == "__main__":
    main()
