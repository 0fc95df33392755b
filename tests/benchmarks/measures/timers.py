"""The cost of a timer that is moved with every message, and of `ttl=`; and the bytes of a pending timer in Redis."""

from __future__ import annotations

from functools import partial

from tests.benchmarks.bench import Bench
from tests.benchmarks.runs import PARTITIONS, partitioned_drain
from tests.benchmarks.samples import Row, Samples, Target, alternate


def measure(bench: Bench) -> list[Row]:
    alarm_bytes: list[float] = []

    def drained(computation: str) -> float:
        rate = partitioned_drain(bench, bench.size.messages, bench.size.keys, computation=computation).rate()
        if computation == "timer":
            with bench.client() as client:
                sets = [f"{{partition.{number}}}:delayed" for number in range(PARTITIONS)]
                count = sum(client.zcard(one) for one in sets)
                alarm_bytes.append(sum(client.memory_usage(one, samples=0) or 0 for one in sets) / count)
        return rate

    taken = alternate(bench.rounds, {name: partial(drained, name) for name in ("plain", "context", "timer", "ttl")})
    rows = [
        Row(
            measure=f"stateful messages/s, one worker, {what}",
            unit="messages/s",
            ours=taken[name].median,
            against="itself, without",
            theirs=taken[base].median,
            target=Target("at least", target, "×"),
            note=f"{bench.size.messages:,} messages of {bench.size.keys:,} keys. States checked against a plain fold.",
            samples=taken,
        )
        for name, base, what, target in (
            ("timer", "context", "a timer moved with every message", 0.95),
            ("ttl", "plain", "every key expires", 0.98),
        )
    ]
    found = Samples(alarm_bytes)
    return [
        *rows,
        Row(
            measure="bytes of a pending timer's alarm in Redis",
            unit="bytes",
            ours=found.median,
            target=Target("at most", 150.0),
            note="MEMORY USAGE of the sorted sets. The record holds about 30 bytes more.",
            samples={"ours": found},
        ),
    ]
