"""The data of the pages that list things over the whole group. Blocks, so it runs in Flower's executor. Every read is bounded."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import asdict
from itertools import islice
from typing import Any, NamedTuple, cast

import msgspec

from celery_partitions.admin.documents import json_key, json_parked
from celery_partitions.admin.history_json import RANGES, marks, points_in, samples
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.watcher import Watcher
from celery_partitions.admin.workers import WorkerStatus, read_workers
from celery_partitions.dashboard.page_data import computations_of
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_text, shown_key
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.history import read_points
from celery_partitions.store.measurements import read_computations
from celery_partitions.store.telemetry import COMPUTATION_SECONDS, LATENCY_SECONDS, ComputationMeasurements

#: Parked keys that one look reads, and rows of one page of any list.
MAX_PARKED = 20_000
PAGE_ROWS = 50
#: Running keys that are named for each worker or computation.
MAX_RUNNING = 5
#: A search for keys reads at most this many fields before it answers.
MAX_KEYS_READ = 20_000
#: The newest records of the audit, which its page searches.
MAX_AUDIT = 2_000
SCAN_COUNT = 1_000


class ParkedQuery(NamedTuple):
    """A parked key fits if all fields match. An empty field matches every key, but `running` only if asked for: it is no trouble."""

    why: str = ""
    task: str = ""
    text: str = ""
    partition: str = ""

    def fits(self, one: ParkedKey) -> bool:
        if (one.why != self.why if self.why else one.why == "running") or self.task not in ("", one.task or ""):
            return False
        if self.partition not in ("", str(one.partition)):
            return False
        wanted = self.text.casefold()
        return not wanted or wanted in shown_key(one.key).casefold() or wanted in one.error.casefold()

    def find(self, keys: ParkedKeys) -> list[ParkedKey]:
        """The matching keys, longest waiting first."""
        return sorted((one for one in islice(keys.all(), MAX_PARKED) if self.fits(one)), key=lambda one: one.since)


def find_parked(installation: Installation, query: ParkedQuery, page: int) -> dict[str, Any]:
    """A page of the matching parked keys, and how many there are of each cause."""
    group = installation.group
    every = list(islice(group.parked_keys.all(), MAX_PARKED))
    found = sorted((one for one in every if query.fits(one)), key=lambda one: one.since)
    causes = Counter((one.why, one.task or "") for one in every)
    return {
        "at": group.now(),
        "total": len(every),
        "cut": len(every) >= MAX_PARKED,
        "found": len(found),
        "waiting": sum(one.waiting for one in found),
        "causes": [{"why": why, "task": task, "count": count} for (why, task), count in causes.most_common()],
        "page": page,
        "pages": max(1, -(-len(found) // PAGE_ROWS)),
        "keys": [json_parked(one) for one in found[page * PAGE_ROWS : (page + 1) * PAGE_ROWS]],
    }


def look_at_computations(watch: Watcher, installation: Installation) -> dict[str, Any]:
    """Every computation that ever ran: rates and latency of the last five minutes, failures, calls in flight, parked keys, dead letters."""
    overview, group = watch.look(), installation.group
    measured = read_computations(group.client, group.names)
    names = sorted({*computations_of(installation), *measured})
    histories = read_points(group.client, [group.names.computation_history(name, "fine") for name in names], points_in(3600))
    in_flight, limits = Counter[str](), Counter[str]()
    for worker in read_workers(group.client, group.names):
        if worker.report is not None:
            in_flight.update(worker.report.in_flight)
            limits.update(worker.report.concurrency)
    troubled = any(one.status.parked or one.status.running for one in overview.partitions)
    parked = list(islice(group.parked_keys.all(), MAX_PARKED)) if troubled else []
    rows = []
    for name, points in zip(names, histories, strict=True):
        series = samples({name: points}, 3600, overview.at)
        recent = [one for one in series if one.at >= overview.at - 300]
        found, computation = measured.get(name, ComputationMeasurements()), installation.computations.get(name)
        own = [one for one in parked if one.task == name]
        rows.append(
            {
                "computation": name,
                "known": computation is not None,
                "stateful": computation is not None and computation.state is not None,
                "processed": found.processed,
                "failed": found.failed,
                "dead_lettered": found.dead,
                "done_per_second": _mean([one.done_per_second for one in recent]),
                "failed_per_second": _mean([one.failed_per_second for one in recent]),
                "latency_p99_seconds": max((one.p99_seconds for one in recent if one.p99_seconds is not None), default=None),
                "call_p50_seconds": found.computation.quantile(COMPUTATION_SECONDS, 0.5),
                "call_p99_seconds": found.computation.quantile(COMPUTATION_SECONDS, 0.99),
                "end_to_end_p99_seconds": found.latency.quantile(LATENCY_SECONDS, 0.99),
                "in_flight": in_flight.get(name, 0),
                "concurrency": limits.get(name) or None,
                "parked": sum(one.why != "running" for one in own),
                "running": _running(own),
                "last_error": msgspec.to_builtins(found.last_error),
                "history": [[one.at, one.done_per_second, one.failed_per_second] for one in series[-60:]],
            }
        )
    return {"at": overview.at, "computations": rows}


def look_at_workers(watch: Watcher, installation: Installation) -> dict[str, Any]:
    """Every worker: its code, age, memory, partitions, rate, calls in flight, and keys that run on it now."""
    overview, group = watch.look(), installation.group
    owners: dict[str, list[Any]] = {}
    for one in overview.partitions:
        if one.status.owner is not None:
            owners.setdefault(one.status.owner, []).append(one)
    rows = []
    for worker in read_workers(group.client, group.names):
        held = owners.get(worker.node, [])
        running = [
            parked
            for one in held
            if one.status.running
            for parked in islice(group.parked_keys.of_partition(int(one.partition) if one.partition.isdigit() else "ingress"), 1000)
            if parked.why == "running"
        ]
        rows.append({**_worker(worker), "waiting": sum(one.status.length for one in held), "running": _running(running)})
    codes = Counter((row["release"], row["code"]) for row in rows if row["code"])
    return {"at": overview.at, "workers": rows, "versions": len(codes)}


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    report = worker.report
    empty = dict.fromkeys(("started_at", "host", "pid", "release", "code", "python", "memory_bytes", "done_per_second"))
    found = empty if report is None else {name: getattr(report, name) for name in empty}
    calls = {} if report is None else {name: [report.in_flight.get(name, 0), limit] for name, limit in report.concurrency.items()}
    facts = {name: value for name, value in asdict(worker).items() if name != "report"}
    return {**facts, **found, "reported_at": None if report is None else report.at, "calls": calls}


def _running(found: list[ParkedKey]) -> dict[str, Any]:
    running = sorted((one for one in found if one.why == "running"), key=lambda one: one.since)
    keys = [{**json_key(one.key), "task": one.task, "since": one.since} for one in running[:MAX_RUNNING]]
    return {"count": len(running), "oldest": keys}


def look_at_audit(installation: Installation, text: str, page: int) -> dict[str, Any]:
    """A page of the audit, newest first. `text`: searched in who, what and the details."""
    group = installation.group
    wanted = text.casefold()
    records = [asdict(one) for one in group.audit.last(MAX_AUDIT)]
    found = [one for one in records if not wanted or wanted in f"{one['who']} {one['what']} {msgspec.json.encode(one['detail']).decode()}".casefold()]
    return {
        "at": group.now(),
        "total": len(records),
        "found": len(found),
        "page": page,
        "pages": max(1, -(-len(found) // PAGE_ROWS)),
        "records": found[page * PAGE_ROWS : (page + 1) * PAGE_ROWS],
    }


def find_keys(installation: Installation, computation: str, prefix: str, after: str) -> dict[str, Any]:
    """Keys of a computation that begin with a text, in no particular order. `after`: the `more` of the last answer; empty: from the start.

    It may answer with few keys, or none, and a `more`: one call reads a bounded number of keys.
    """
    group, names = installation.group, computations_of(installation)
    partitions = group.topology.served
    partition, _, cursor = (after or "0:0").partition(":")
    at, place = min(int(partition), partitions) if partition.isdigit() else 0, int(cursor) if cursor.isdigit() else 0
    found: list[str] = []
    read = 0
    pattern = re.sub(r"([\[\]*?^\\])", r"\\\1", prefix) + "*"
    while at < partitions and computation in names and len(found) < PAGE_ROWS and read < MAX_KEYS_READ:
        states = group.names.states(str(at), computation)
        place, fields = cast(Any, group.client.hscan(states, place, match=pattern, count=SCAN_COUNT))
        found += [key_text(field) for field in fields]
        read += SCAN_COUNT
        if not place:
            at += 1
    more = f"{at}:{place}" if at < partitions and computation in names else None
    return {"computations": names, "computation": computation, "prefix": prefix, "keys": [json_key(key) for key in found], "more": more}


def look_at_history(watch: Watcher, installation: Installation, seconds: int, partition: str, computation: str) -> dict[str, Any]:
    """A chart's samples `[time, in/s, done/s, waiting, p99 seconds, failed/s]` and marks. `seconds`: one of `RANGES`. At most one of
    `partition` and `computation`; none: the whole group."""
    overview, group = watch.look(), installation.group
    resolution = RANGES[seconds]
    if computation:
        keys = {computation: group.names.computation_history(computation, resolution)}
    else:
        keys = {one.partition: group.names.history(one.partition, resolution) for one in overview.partitions if partition in ("", one.partition)}
    histories = dict(zip(keys, read_points(group.client, list(keys.values()), points_in(seconds)), strict=True))
    forwarded = 0 if partition or computation else sum(one.forwarded for one in overview.partitions)
    workers = read_workers(group.client, group.names)
    return {
        "at": overview.at,
        "seconds": seconds,
        "samples": samples(histories, seconds, overview.at, forwarded=forwarded),
        "marks": marks(overview, workers, seconds, partition or None),
    }


def _mean(values: list[float]) -> float | None:
    return round(sum(values) / len(values), 1) if values else None
