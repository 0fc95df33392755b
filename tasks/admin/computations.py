"""What an operator sees of computations: rates, latency, failures, calls in flight. For the commands and the dashboard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import islice
from typing import Any, cast

import msgspec

from celery_partitions.admin.documents import json_key
from celery_partitions.admin.history_json import RECENT_SECONDS, mean, points_in, samples
from celery_partitions.admin.overview import Readable
from celery_partitions.admin.policies import Policies, limit_in_force
from celery_partitions.admin.watcher import Watcher
from celery_partitions.admin.workers import read_workers
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.policy import PolicyChange
from celery_partitions.store.history import read_points
from celery_partitions.store.measurements import read_computations
from celery_partitions.store.telemetry import COMPUTATION_SECONDS, LATENCY_SECONDS, ComputationMeasurements

#: Parked keys that one look reads.
MAX_PARKED = 20_000
#: Running keys that are named for each worker or computation.
MAX_RUNNING = 5


def computations_of(group: Readable) -> list[str]:
    """Every computation that ever ran in the group."""
    return sorted(group.names.computations_in(cast(list[bytes], group.client.hkeys(group.names.group_meta))))


def look_at_computations(watch: Watcher, known: Mapping[str, Computation]) -> dict[str, Any]:
    """Every computation that ever ran: rates and latency of the last five minutes, failures, calls in flight, parked keys, dead letters.
    `known`: the computations of this process."""
    overview, group = watch.look(), watch.group
    measured = read_computations(group.client, group.names)
    names = sorted({*computations_of(group), *measured})
    histories = read_points(group.client, [group.names.computation_history(name, "fine") for name in names], points_in(3600))
    in_flight, limits = Counter[str](), Counter[str]()
    for worker in read_workers(group.client, group.names):
        if worker.report is not None:
            in_flight.update(worker.report.in_flight)
            limits.update(worker.report.concurrency)
    troubled = any(one.status.parked or one.status.running for one in overview.partitions)
    parked = list(islice(group.parked_keys.all(), MAX_PARKED)) if troubled else []
    changes = Policies(group.client, group.names, group.audit).all()
    rows = []
    for name, points in zip(names, histories, strict=True):
        series = samples({name: points}, 3600, overview.at)
        recent = [one for one in series if one.at >= overview.at - RECENT_SECONDS]
        found, computation = measured.get(name, ComputationMeasurements()), known.get(name)
        limit = None if computation is None else limit_in_force(computation, changes.get(name, PolicyChange()))
        own = [one for one in parked if one.task == name]
        rows.append(
            {
                "computation": name,
                "known": computation is not None,
                "stateful": computation is not None and computation.state is not None,
                "processed": found.processed,
                "failed": found.failed,
                "retried": found.retried,
                "dead_lettered": found.dead,
                "done_per_second": mean([one.done_per_second for one in recent]),
                "failed_per_second": mean([one.failed_per_second for one in recent]),
                "latency_p99_seconds": max((one.p99_seconds for one in recent if one.p99_seconds is not None), default=None),
                "call_messages": found.processed / found.batches if found.batches else None,
                "call_p50_seconds": found.computation.quantile(COMPUTATION_SECONDS, 0.5),
                "call_p99_seconds": found.computation.quantile(COMPUTATION_SECONDS, 0.99),
                "end_to_end_p99_seconds": found.latency.quantile(LATENCY_SECONDS, 0.99),
                "in_flight": in_flight.get(name, 0),
                "concurrency": limits.get(name) or None,
                "rate_limit": None if limit is None else limit.text,
                "waiting_for_rate": sum(one.why == "rate" for one in own),
                "flush_every": None if computation is None or computation.flush is None else computation.flush.every,
                "filling": sum(one.why == "gather" for one in own),
                "parked": sum(not one.waits_its_turn for one in own),
                "running": running_keys(own),
                "last_error": msgspec.to_builtins(found.last_error),
                "history": [[one.at, one.done_per_second, one.failed_per_second] for one in series[-60:]],
            }
        )
    return {"at": overview.at, "computations": rows}


def running_keys(found: Iterable[ParkedKey]) -> dict[str, Any]:
    """How many of the parked keys have a call in flight, and the oldest of them."""
    running = sorted((one for one in found if one.why == "running"), key=lambda one: one.since)
    keys = [{**json_key(one.key), "task": one.task, "since": one.since} for one in running[:MAX_RUNNING]]
    return {"count": len(running), "oldest": keys}
