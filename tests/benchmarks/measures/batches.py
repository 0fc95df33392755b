"""Batch computations (`flush_every=100`) against a plain computation that gets the same messages one by one."""

from __future__ import annotations

import time
from functools import partial

from tests.benchmarks.bench import LOOK_SECONDS, STALLED_SECONDS, Bench, Drain
from tests.benchmarks.runs import PARTITIONS, checked
from tests.benchmarks.samples import CandidateFailedError, Row, Target, alternate, ratio

#: So few keys that 100 messages of each lie in one of the worker's own batches.
FEW_KEYS = 8


def measure(bench: Bench) -> list[Row]:
    size = bench.size

    def drained(computation: str, count: int, keys: int) -> float:
        workload = ("--computation", computation, "--count", count, "--keys", keys)
        bench.clear()
        bench.run("partitioned_client.py", "fill", *workload, PARTITIONS=PARTITIONS)
        with bench.worker("partitioned", PARTITIONS=PARTITIONS):
            rate = processed(bench, count).rate()
        checked(bench.run("partitioned_client.py", "check", *workload, PARTITIONS=PARTITIONS))
        return rate

    rows = []
    for what, batches, plain, count, keys, target in (
        ("calls do next to nothing, few keys", "batches", "plain", size.messages, FEW_KEYS, 0.7),
        ("calls do next to nothing, messages gather in mailboxes", "batches", "plain", size.messages, size.keys, 0.2),
        ("each call takes 2 ms", "waiting-batches", "waiting", size.slow_messages, FEW_KEYS, 10.0),
    ):
        taken = alternate(bench.rounds, {name: partial(drained, name, count, keys) for name in (batches, plain)})
        rows.append(
            Row(
                measure=f"stateful messages/s, one worker, flush_every=100; {what}",
                unit="messages/s",
                ours=taken[batches].median,
                against="a plain computation",
                theirs=taken[plain].median,
                score=ratio(taken[batches].median, taken[plain].median),
                target=Target("at least", target, "×"),
                note=f"{count:,} messages of {keys:,} keys, queued. Until all are processed. States checked against a plain fold.",
                samples=taken,
            )
        )
    return rows


def processed(bench: Bench, count: int) -> Drain:
    """Watch until all messages are processed. Messages that gather are in no queue."""
    looks: list[tuple[float, int]] = []
    moved_at = time.monotonic()
    with bench.client() as client:
        while True:
            with client.pipeline(transaction=False) as pipe:
                for number in range(PARTITIONS):
                    pipe.hget(f"{{partition.{number}}}:meta", "processed")
                left = count - sum(int(one or 0) for one in pipe.execute())
            now = time.monotonic()
            moved_at = now if not looks or left != looks[-1][1] else moved_at
            looks.append((now, left))
            if left <= 0:
                return Drain(tuple(looks))
            if now - moved_at > STALLED_SECONDS:
                raise CandidateFailedError(f"{left} messages are not processed")
            time.sleep(LOOK_SECONDS)
