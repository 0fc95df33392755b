"""The measures, in the order of the table. Each is a function from the bench to rows."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.bench import Bench
from tests.benchmarks.measures import (
    batches,
    cluster,
    dashboard,
    due,
    duplicates,
    enqueue,
    growth,
    hot_key,
    latency,
    limits,
    memory,
    overview,
    partitioning,
    pipelines,
    recovery,
    resizing,
    round_trips,
    sends,
    server_time,
    throughput,
    timers,
    waiting,
)
from tests.benchmarks.samples import Row

MEASURES: dict[str, Callable[[Bench], list[Row]]] = {
    "throughput": throughput.measure,
    "enqueue": enqueue.measure,
    "latency": latency.measure,
    "hot-key": hot_key.measure,
    "growth": growth.measure,
    "round-trips": round_trips.measure,
    "server-time": server_time.measure,
    "memory": memory.measure,
    "overview": overview.measure,
    "sends": sends.measure,
    "timers": timers.measure,
    "due": due.measure,
    "batches": batches.measure,
    "duplicates": duplicates.measure,
    "partitioning": partitioning.measure,
    "waiting": waiting.measure,
    "limits": limits.measure,
    "pipelines": pipelines.measure,
    "recovery": recovery.measure,
    "resize": resizing.measure,
    "cluster": cluster.measure,
    "dashboard": dashboard.measure,
}
