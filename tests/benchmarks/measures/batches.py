"""Batch computations (`flush_every=100`) against a plain computation that gets the same messages one by one."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.runs import partitioned_drain
from tests.benchmarks.samples import Row, Target, alternate

#: So few keys that 100 messages of each lie in one of the worker's own batches.
FEW_KEYS = 8


def measure(bench: Bench) -> list[Row]:
    size = bench.size

    def drained(computation: str, count: int, keys: int) -> float:
        return partitioned_drain(bench, count, keys, computation=computation, gathers=True).rate()

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
                target=Target("at least", target, "×"),
                note=f"{count:,} messages of {keys:,} keys, queued. Until all are processed. States checked against a plain fold.",
                samples=taken,
            )
        )
    return rows
