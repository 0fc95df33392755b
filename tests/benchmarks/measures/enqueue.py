"""Enqueued messages/s: `send_many` compared with `apply_async` in a loop."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.runs import PARTITIONS, plain_sending
from tests.benchmarks.samples import Row, Target, alternate


def measure(bench: Bench) -> list[Row]:
    size = bench.size

    def send_many() -> float:
        bench.clear()
        workload = ("--count", size.enqueued, "--keys", size.keys)
        filled = bench.run("partitioned_client.py", "fill", *workload, PARTITIONS=PARTITIONS)
        return size.enqueued / float(filled["seconds"])

    taken = alternate(bench.rounds, {"ours": send_many, "apply_async": partial(plain_sending, bench)})
    ours, theirs = taken["ours"].median, taken["apply_async"].median
    return [
        Row(
            measure="enqueued messages/s",
            unit="messages/s",
            ours=ours,
            against="apply_async in a loop",
            theirs=theirs,
            target=Target("at least", 40.0, "×"),
            note=f"{size.enqueued:,} messages; apply_async {size.plain_enqueued:,}. Objects made before.",
            samples=taken,
        )
    ]
