"""The cost of `deduplicate=`: throughput if every id is looked up and remembered, and the memory of an id in Redis."""

from __future__ import annotations

from functools import partial

import redis

from tests.benchmarks.bench import Bench
from tests.benchmarks.runs import partitioned_drain
from tests.benchmarks.samples import Row, Samples, alternate


def measure(bench: Bench) -> list[Row]:
    memory: list[float] = []

    def drained(computation: str) -> float:
        rate = partitioned_drain(bench, bench.size.messages, bench.size.keys, computation=computation).rate()
        if computation == "once":
            with bench.client() as client:
                memory.append(bytes_of_ids(client) / bench.size.messages)
        return rate

    without, with_ids = "without", "every id looked up and remembered"
    taken = alternate(bench.rounds, {without: partial(drained, "plain"), with_ids: partial(drained, "once")})
    id_bytes = Samples(memory)
    return [
        Row(
            measure="stateful messages/s, one worker, duplicates dropped",
            unit="messages/s",
            ours=taken[with_ids].median,
            against="itself, ids not looked at",
            theirs=taken[without].median,
            note=f"{bench.size.messages:,} messages, no duplicate among them. States checked against a plain fold.",
            samples=taken,
        ),
        Row(
            measure="bytes an id takes in Redis while it is remembered",
            unit="bytes",
            ours=id_bytes.median,
            note="MEMORY USAGE of the sets.",
            samples={"ours": id_bytes},
        ),
    ]


def bytes_of_ids(client: redis.Redis) -> float:
    """Bytes of all sets. Only deduplication uses sets."""
    sets = list(client.scan_iter(count=1000, _type="set"))
    return float(sum(client.memory_usage(key, samples=100) or 0 for key in sets))  # type: ignore[misc]
