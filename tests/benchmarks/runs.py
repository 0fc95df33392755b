"""The runs that most measures use: fill the queues, empty them with one worker, check the result."""

from __future__ import annotations

from typing import Any

from tests.benchmarks.bench import Bench, Drain, messages_processed, partition_queues
from tests.benchmarks.samples import CandidateFailedError

#: The default of PARTITIONS.
PARTITIONS = 4


def partitioned_drain(
    bench: Bench, count: int, keys: int, partitions: int = PARTITIONS, computation: str = "plain", *, gathers: bool = False, **settings: object
) -> Drain:
    """Ours: `count` messages queued, then one worker started. `settings` are for the worker only.

    `gathers`: watch the count of processed messages, because messages that gather for a batch computation are in no queue.
    """
    workload = ("--computation", computation, "--count", count, "--keys", keys)
    bench.clear()
    bench.run("partitioned_client.py", "fill", *workload, PARTITIONS=partitions)
    with bench.worker("partitioned", PARTITIONS=partitions, **settings) as worker:
        if gathers:
            drain = bench.watch_until_zero(lambda client: max(0, count - messages_processed(client, partitions)), [worker])
        else:
            drain = bench.watch(partition_queues(partitions), [worker])
    checked(bench.run("partitioned_client.py", "check", *workload, PARTITIONS=partitions))
    return drain


def plain_drain(bench: Bench, count: int, keys: int, **settings: object) -> Drain:
    """Plain Celery: the same with its single queue."""
    bench.clear()
    bench.run("plain_client.py", "fill", "--count", count, "--keys", keys)
    with bench.worker("plain", **settings) as worker:
        drain = bench.watch(["celery"], [worker])
    checked(bench.run("plain_client.py", "check", "--count", count, "--keys", keys))
    return drain


def plain_sending(bench: Bench) -> float:
    """Plain Celery: messages/s of `apply_async` in a loop."""
    bench.clear()
    filled = bench.run("plain_client.py", "fill", "--count", bench.size.plain_enqueued, "--keys", bench.size.keys)
    return bench.size.plain_enqueued / float(filled["seconds"])


def checked(result: dict[str, Any]) -> dict[str, Any]:
    """Return a candidate's answer. Raises if its result is wrong, however fast it was."""
    if result["wrong"]:
        raise CandidateFailedError(f"{result['wrong']} keys have a wrong state")
    return result
