"""Shows that partitioning helps: the same messages with one key and with many, on 1, 2 and 4 workers.

Two computations of 2 ms: one waits, as if it called another service; one uses processor time. Messages of one key are
applied one after another with any number of workers. Messages of many keys are faster in proportion to the number of
workers (if they compute: of processors). The states must be the same each time.
"""

from __future__ import annotations

import os
import time
from contextlib import ExitStack
from functools import partial

from tests.benchmarks.bench import Bench, partition_queues
from tests.benchmarks.runs import checked
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, alternate

#: Twice the number of workers, so that every worker gets its share of the keys although crc32 spreads them unevenly.
PARTITIONS = 8
WORKERS = (1, 2, 4)
#: The time in which workers must start and share the partitions.
SHARED_SECONDS = 60.0


def measure(bench: Bench) -> list[Row]:
    rows: list[Row] = []
    for computation in ("waiting", "computing"):
        candidates = {
            label(name, workers): partial(run, bench, computation, keys, workers)
            for name, keys in (("one key", 1), ("many keys", bench.size.keys))
            for workers in WORKERS
            if name == "many keys" or workers != 2
        }
        taken = alternate(bench.rounds, candidates)
        rows += [row(computation, taken, workers) for workers in WORKERS]
        rows.append(one_key(computation, taken))
    return rows


def label(keys: str, workers: int) -> str:
    """The name of a candidate."""
    return f"{keys}, {workers} worker{'s' if workers > 1 else ''}"


def run(bench: Bench, computation: str, keys: int, workers: int) -> float:
    """Messages/s from the first message sent to the last commit, with workers that already wait."""
    count = bench.size.slow_messages
    workload = ("--computation", computation, "--count", count, "--keys", keys)
    bench.clear()
    with ExitStack() as stack:
        started = [
            stack.enter_context(bench.worker("partitioned", number, PARTITIONS=PARTITIONS))
            for number in range(1, workers + 1)
        ]
        wait_until_shared(bench, workers)
        sent = bench.run("partitioned_client.py", "fill", *workload, PARTITIONS=PARTITIONS)
        drain = bench.watch(partition_queues(PARTITIONS), started)
    checked(bench.run("partitioned_client.py", "check", *workload, PARTITIONS=PARTITIONS))
    return count / (drain.ended_at - float(sent["started_at"]))


def wait_until_shared(bench: Bench, workers: int) -> None:
    """Wait until every worker owns its share of the partitions, where shares differ by at most one."""
    until = time.monotonic() + SHARED_SECONDS
    owned: dict[str, int] = {}
    while time.monotonic() < until:
        owned = {}
        for entry in bench.partition_status(PARTITIONS=PARTITIONS):
            # The ingress also has an owner, but forwards nothing here.
            if entry["owner"] and entry["queue"] != "partition":
                owned[entry["owner"]] = owned.get(entry["owner"], 0) + 1
        shares = owned.values()
        if len(owned) == workers and sum(shares) == PARTITIONS and max(shares) - min(shares) <= 1:
            return
    raise CandidateFailedError(f"{workers} workers did not share {PARTITIONS} partitions: {owned}")


def row(computation: str, taken: dict[str, Samples], workers: int) -> Row:
    """Many keys on several workers compared with one key, which more workers cannot speed up."""
    ours, single = taken[label("many keys", workers)].median, taken[label("one key", 1)].median
    usable = workers if computation == "waiting" else min(workers, os.cpu_count() or 1)
    return Row(
        measure=f"2 ms {computation}: many keys on {workers} worker{'s' if workers > 1 else ''}",
        unit="messages/s",
        ours=ours,
        against="one key",
        theirs=single,
        note=f"At most {usable}× is possible on {os.cpu_count()} processors. Same states in every run.",
        samples=taken,
    )


def one_key(computation: str, taken: dict[str, Samples]) -> Row:
    """One key: more workers change neither the speed nor the result."""
    ours, single = taken[label("one key", 4)].median, taken[label("one key", 1)].median
    return Row(
        measure=f"2 ms {computation}: one key on 4 workers",
        unit="messages/s",
        ours=ours,
        against="one key on 1 worker",
        theirs=single,
        note="Ordered, so it can't be faster. Same states in every run.",
        samples=taken,
    )
