"""Messages/s through a pipeline of two hops, beside the same work in one stage, and the single computation."""

from __future__ import annotations

import time
from functools import partial

import redis

from tests.benchmarks.bench import STALLED_SECONDS, Bench, messages_left, partition_queues
from tests.benchmarks.runs import PARTITIONS, checked, partitioned_drain
from tests.benchmarks.samples import CandidateFailedError, Row, alternate, ratio


def measure(bench: Bench) -> list[Row]:
    count, keys = bench.size.messages, bench.size.keys

    def through(pipeline: str) -> float:
        bench.clear()
        workload = ("--pipeline", pipeline, "--count", count, "--keys", keys)
        bench.run("pipelined_client.py", "fill", *workload, PARTITIONS=PARTITIONS)
        with bench.worker("pipelined", PARTITIONS=PARTITIONS), bench.client() as client:
            seconds = seconds_to_drain(client)
        checked(bench.run("pipelined_client.py", "check", *workload, PARTITIONS=PARTITIONS))
        return count / seconds

    taken = alternate(
        bench.rounds,
        {
            "two hops": partial(through, "two-hops"),
            "one stage": partial(through, "one-stage"),
            "one computation, no pipeline": lambda: partitioned_drain(bench, count, keys).rate(),
        },
    )
    ours = taken["two hops"].median
    return [
        Row(
            measure=f"messages/s from a source through two hops into a list, one worker, {keys:,} keys",
            unit="messages/s",
            ours=ours,
            against=name,
            theirs=taken[name].median,
            score=ratio(ours, taken[name].median),
            target=None,
            note=f"{count:,} messages of the source; each is read twice, changes two states, and is written once more and into the list.",
            samples=taken,
        )
        for name in ("one stage", "one computation, no pipeline")
    ]


def seconds_to_drain(client: redis.Redis) -> float:
    """From the first message that was processed until no queue holds one."""
    queues = partition_queues(PARTITIONS)
    begun = None
    asked = time.monotonic()
    while True:
        now = time.monotonic()
        if begun is None:
            if any(client.hget(f"partition:{number}:facts", "processed") for number in range(PARTITIONS)):
                begun = now
        elif messages_left(client, queues) == 0:
            return now - begun
        if now - asked > 2 * STALLED_SECONDS:
            raise CandidateFailedError("the pipeline is not through")
        time.sleep(0.005)
