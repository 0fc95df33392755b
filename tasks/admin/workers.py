"""The running workers of a group, read from their leases."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import redis

from celery_partitions.admin.status import node_name
from celery_partitions.store.names import Names
from celery_partitions.store.worker_reports import WorkerReport, load_reports


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """One running partition worker."""

    #: Its Celery node name.
    node: str
    #: The queues of the partitions that it owns.
    queues: list[str]
    #: The queues that it is pinned to (`-Q`). Empty: it takes its share of all.
    pinned: list[str]
    draining: bool
    #: Seconds until its leases expire, unless it renews them.
    lease_seconds: float
    #: What it last reported about itself; None before its first report.
    report: WorkerReport | None = None


@dataclass(frozen=True, slots=True)
class OlderCode:
    """Workers whose code is not that of the worker that started last."""

    #: Nodes.
    nodes: list[str]
    #: When the last worker with the newest code started, in seconds since the epoch.
    newest_since: float


def code_versions(workers: Iterable[WorkerStatus]) -> dict[tuple[str, str], float]:
    """(release, code) of the workers that have reported → when the last of its workers started."""
    started: dict[tuple[str, str], float] = {}
    for report in (one.report for one in workers if one.report is not None):
        started[report.release, report.code] = max(report.started_at, started.get((report.release, report.code), 0.0))
    return started


def older_code(workers: Iterable[WorkerStatus]) -> OlderCode | None:
    """None if all workers that have reported run the same code."""
    workers = list(workers)
    started = code_versions(workers)
    if len(started) < 2:
        return None
    newest = max(started, key=lambda code: started[code])
    reports = [(one.node, one.report) for one in workers if one.report is not None]
    return OlderCode(sorted(node for node, report in reports if (report.release, report.code) != newest), started[newest])


def read_workers(client: redis.Redis, names: Names) -> list[WorkerStatus]:
    """The workers whose leases have not expired, sorted by node name."""
    with client.pipeline(transaction=False) as pipe:
        pipe.zrange(names.workers, 0, -1, withscores=True)
        pipe.hgetall(names.owners)
        pipe.hgetall(names.pins)
        pipe.hkeys(names.draining)
        pipe.time()
        pipe.hgetall(names.reports)
        members, owners, pins, draining, (seconds, micros), reported = pipe.execute()
    reports = load_reports(reported)
    now = seconds * 1000 + micros // 1000
    found = []
    for worker, until in members:
        if until < now:
            continue
        held = sorted((partition.decode() for partition, owner in owners.items() if owner == worker), key=_in_order)
        pinned = [partition for partition in pins.get(worker, b"").decode().split(",") if partition]
        found.append(
            WorkerStatus(
                node_name(worker.decode()),
                [names.queue_name(partition) for partition in held],
                [names.queue_name(partition) for partition in pinned],
                worker in draining,
                round((until - now) / 1000, 3),
                reports.get(worker.decode()),
            )
        )
    return sorted(found, key=lambda worker: worker.node)


def _in_order(partition: str) -> tuple[bool, int]:
    return (False, int(partition)) if partition.isdigit() else (True, 0)
