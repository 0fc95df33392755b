"""One ordinary task sent per message, in its commit, compared with `apply_async` called outside."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.runs import partitioned_drain, plain_sending
from tests.benchmarks.samples import CandidateFailedError, Row, Target, alternate


def measure(bench: Bench) -> list[Row]:
    size = bench.size

    def in_the_commit() -> float:
        rate = partitioned_drain(bench, size.enqueued, size.keys, computation="sending").rate()
        with bench.client() as client:
            sent = client.llen("notes")
        if sent != size.enqueued:
            raise CandidateFailedError(f"{sent} tasks were sent for {size.enqueued} messages")
        return rate

    taken = alternate(bench.rounds, {"ours": in_the_commit, "apply_async": partial(plain_sending, bench)})
    ours, theirs = taken["ours"].median, taken["apply_async"].median
    return [
        Row(
            measure="stateful messages/s, one worker, each sends an ordinary task in its commit",
            unit="messages/s",
            ours=ours,
            against="apply_async in a loop, outside",
            theirs=theirs,
            target=Target("at least", 5.0, "×"),
            note=f"{size.enqueued:,} messages; apply_async {size.plain_enqueued:,}. States checked, tasks counted.",
            samples=taken,
        )
    ]
