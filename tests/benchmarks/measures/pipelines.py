"""Messages/s through a pipeline of two hops, and from a TCP source to a TCP sink, compared with the same work in one stage."""

from __future__ import annotations

import time
from functools import partial

import redis

from tests.benchmarks.bench import STALLED_SECONDS, Bench, messages_left, partition_queues
from tests.benchmarks.runs import PARTITIONS, checked, partitioned_drain
from tests.benchmarks.samples import CandidateFailedError, Row, alternate
from tests.support.server import free_port


def measure(bench: Bench) -> list[Row]:
    count, keys = bench.size.messages, bench.size.keys
    taken = alternate(
        bench.rounds,
        {
            "two hops": partial(through, bench, "two-hops"),
            "one stage": partial(through, bench, "one-stage"),
            "one computation, no pipeline": lambda: partitioned_drain(bench, count, keys).rate(),
            "TCP to TCP": partial(tcp_to_tcp, bench),
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
            note=f"{count:,} messages of the source; each is read twice, changes two states, and is written once more and into the list.",
            samples=taken,
        )
        for name in ("one stage", "one computation, no pipeline")
    ] + [
        Row(
            measure=f"messages/s from a TCP source through one stage to a TCP sink, one worker, {keys:,} keys",
            unit="messages/s",
            ours=taken["TCP to TCP"].median,
            against="one stage",
            theirs=taken["one stage"].median,
            note=f"{count:,} frames; three processes of ours (source, worker, sink) and the peer that sends, reads and checks.",
            samples=taken,
        )
    ]


def through(bench: Bench, pipeline: str) -> float:
    """Messages/s of the source through a pipeline."""
    bench.clear()
    workload = ("--pipeline", pipeline, "--count", bench.size.messages, "--keys", bench.size.keys)
    bench.run("pipelined_client.py", "fill", *workload, PARTITIONS=PARTITIONS)
    with bench.worker("pipelined", PARTITIONS=PARTITIONS), bench.client() as client:
        seconds = seconds_to_drain(client)
    checked(bench.run("pipelined_client.py", "check", *workload, PARTITIONS=PARTITIONS))
    return bench.size.messages / seconds


def tcp_to_tcp(bench: Bench) -> float:
    bench.clear()
    ports = {"BENCH_IN": free_port(), "BENCH_OUT": free_port()}
    settings = {**ports, "PARTITIONS": PARTITIONS}
    with (
        bench.worker("pipelined", **settings),
        bench.celery("pipelined", "tcp-source", "partitions", "source", "tcp in", **settings),
        bench.celery("pipelined", "tcp-sink", "partitions", "sink", "tcp out", **settings),
    ):
        workload = ("--count", bench.size.messages, "--keys", bench.size.keys)
        done = bench.run("tcp_peer.py", "--to", ports["BENCH_IN"], "--listen", ports["BENCH_OUT"], *workload)
    return float(checked(done)["rate"])


def seconds_to_drain(client: redis.Redis) -> float:
    """Seconds from the first processed message until all queues are empty."""
    queues = partition_queues(PARTITIONS)
    begun = None
    asked = time.monotonic()
    while True:
        now = time.monotonic()
        if begun is None:
            if any(client.hget(f"{{partition.{number}}}:meta", "processed") for number in range(PARTITIONS)):
                begun = now
        elif messages_left(client, queues) == 0:
            return now - begun
        if now - asked > 2 * STALLED_SECONDS:
            raise CandidateFailedError("the pipeline is not through")
        time.sleep(0.005)
