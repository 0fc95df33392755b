"""The bytes of a key in Redis, and the memory of a worker with many cached keys."""

from __future__ import annotations

from pathlib import Path

import redis

from tests.benchmarks.bench import Bench, Worker, partition_queues
from tests.benchmarks.runs import PARTITIONS
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target, alternate

#: A hash with fewer fields is not the states of a partition (small run: 5 000 keys / 4).
STATE_FIELDS = 500


def measure(bench: Bench) -> list[Row]:
    keys = bench.size.cached_keys
    residents: list[float] = []

    def partitioned() -> float:
        bench.clear()
        bench.run("partitioned_client.py", "fill-keys", "--keys", keys, PARTITIONS=PARTITIONS)
        with bench.worker("partitioned", PARTITIONS=PARTITIONS) as worker:
            bench.watch(partition_queues(PARTITIONS), [worker])
            residents.append(resident_megabytes(worker))
        with bench.client() as client:
            return state_bytes(client) / keys

    def plain() -> float:
        bench.clear()
        bench.run("plain_client.py", "fill", "--count", 1, "--keys", 1)
        with bench.worker("plain") as worker:
            bench.watch(["celery"], [worker])
            return resident_megabytes(worker)

    size = alternate(bench.rounds, {"ours": partitioned})
    resident = alternate(bench.rounds, {"plain Celery": plain})
    resident["ours"] = Samples(residents, size["ours"].failures)
    return [
        Row(
            measure="bytes a key takes in Redis, state of one float",
            unit="bytes",
            ours=size["ours"].median,
            target=Target("at most", 200.0, " B"),
            note=f"MEMORY USAGE of the hashes that hold the states, over {keys:,} keys.",
            samples=size,
        ),
        Row(
            measure=f"memory of a worker with {keys:,} keys cached",
            unit="MB",
            ours=resident["ours"].median,
            against="plain Celery, which caches nothing",
            theirs=resident["plain Celery"].median,
            own_score=resident["ours"].median,
            target=Target("at most", 150.0, " MB"),
            note="Resident set (VmRSS).",
            samples=resident,
        ),
    ]


def state_bytes(client: redis.Redis) -> int:
    """The server's memory for hashes as large as a partition's states, including names and overhead."""
    total = 0
    for key in client.scan_iter(_type="hash"):
        if client.hlen(key) >= STATE_FIELDS:
            total += client.memory_usage(key, samples=0) or 0
    if not total:
        raise CandidateFailedError("no hash with states found")
    return total


def resident_megabytes(worker: Worker) -> float:
    """The worker's resident memory (Linux only), in units of 1 000 000 bytes."""
    status = Path(f"/proc/{worker.process.pid}/status")
    if not status.exists():
        raise CandidateFailedError("no /proc: a worker's memory is measured on Linux only")
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmRSS:"))
    return int(line.split()[1]) * 1024 / 1e6
