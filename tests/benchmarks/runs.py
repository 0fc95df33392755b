"""The runs that most measures use: fill the queues, empty them with one worker, check the result."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.bench import Bench, Drain, partition_queues
from tests.benchmarks.samples import CandidateFailedError

#: The default of PARTITIONS.
PARTITIONS = 4


def partitioned_drain(
    bench: Bench, count: int, keys: int, partitions: int = PARTITIONS, **settings: object
) -> Drain:
    """Ours: `count` messages queued, then one worker started. `settings` are for the worker only."""
    bench.clear()
    bench.run("partitioned_client.py", "fill", "--count", count, "--keys", keys, PARTITIONS=partitions)
    return partitioned_drain_of_filled(bench, count, keys, partitions, **settings)


def partitioned_drain_of_filled(
    bench: Bench, count: int, keys: int, partitions: int = PARTITIONS, **settings: object
) -> Drain:
    """The same with queues that are already filled."""
    with bench.worker("partitioned", PARTITIONS=partitions, **settings) as worker:
        drain = bench.watch(partition_queues(partitions), [worker])
    checked(
        bench.run("partitioned_client.py", "check", "--count", count, "--keys", keys, PARTITIONS=partitions)
    )
    return drain


def plain_drain(bench: Bench, count: int, keys: int, **settings: object) -> Drain:
    """Plain Celery: the same with its single queue."""
    bench.clear()
    bench.run("plain_client.py", "fill", "--count", count, "--keys", keys)
    with bench.worker("plain", **settings) as worker:
        drain = bench.watch(["celery"], [worker])
    checked(bench.run("plain_client.py", "check", "--count", count, "--keys", keys))
    return drain


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """Return a candidate's answer. Raises if its result is wrong, however fast it was."""
    if result["wrong"]:
        raise CandidateFailedError(f"{result['wrong']} keys have a wrong state")
    return result
