"""The data of the pages that list things over the whole group. Blocks, so it runs in Flower's executor. Every read is bounded."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from functools import lru_cache
from itertools import islice
from typing import Any

import msgspec

from celery_partitions.admin.computations import MAX_PARKED, look_at_computations, running_keys
from celery_partitions.admin.documents import json_parked
from celery_partitions.admin.ends import look_at_sink, read_sources
from celery_partitions.admin.history_json import RANGES, marks, points_in, samples
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.pipelines import PLACES, look_at_pipelines, look_at_sinks
from celery_partitions.admin.watcher import Watcher
from celery_partitions.admin.workers import WorkerStatus, code_versions, read_workers
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import shown_key
from celery_partitions.producer.pipelines import ends_with_processes, shapes
from celery_partitions.runtime.installation import Installation
from celery_partitions.sinks.group import sink_installation
from celery_partitions.store.history import read_points
from celery_partitions.store.measurements import read_pushed

#: Rows of one page of any list.
PAGE_ROWS = 50
#: The newest records of the audit, which its page searches.
MAX_AUDIT = 2_000


class ParkedQuery(msgspec.Struct, frozen=True):
    """A parked key fits if all fields match. An empty field matches every key, but those that wait for their turn only if asked for: they are no trouble."""

    why: str = ""
    task: str = ""
    text: str = ""
    partition: str = ""

    def fits(self, one: ParkedKey) -> bool:
        if (one.why != self.why if self.why else one.waits_its_turn) or self.task not in ("", one.task or ""):
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


def look_at_computations_and_pipelines(watch: Watcher, installation: Installation) -> dict[str, Any]:
    """Every computation that ever ran, and every pipeline of this process."""
    found = look_at_computations(watch, installation.computations)
    pipelines = look_at_pipelines(installation.group, watch.look(), shapes(), found["computations"])
    return {**found, "pipelines": pipelines}


def look_at_ends(installation: Installation) -> dict[str, Any]:
    """The sinks and sources of this process's pipelines that have processes, and the lists and streams in Redis that workers push into. A sink
    outside Redis has a group of its own."""
    ends, group, now = ends_with_processes(), installation.group, installation.group.now()
    sinks = [look_at_sink(of_sink(installation, name).group, name) for name in ends.sinks]
    pushed = read_pushed(group.client, group.names)
    places = [
        {"sink": part.name, "place": part.place, "pushed": pushed.get(part.name, 0), "per_second": row["per_second"], "waiting": row["waiting"]}
        for part, row in look_at_sinks(group, shapes(), now).items()
        if part.place in PLACES
    ]
    return {"at": now, "sinks": sinks, "places": places, "sources": [asdict(one) for one in read_sources(group, ends)]}


@lru_cache(maxsize=100)
def of_sink(installation: Installation, name: str) -> Installation:
    """The installation of a sink's own group. Made once, because it has its own connections. Raises `SetupError` if there is no such sink."""
    return sink_installation(installation, name)


def look_at_workers(watch: Watcher, installation: Installation) -> dict[str, Any]:
    """Every worker: its code, age, memory, partitions, rate, calls in flight, and keys that run on it now."""
    overview, group = watch.look(), installation.group
    owners: dict[str, list[Any]] = {}
    for one in overview.partitions:
        if one.status.owner is not None:
            owners.setdefault(one.status.owner, []).append(one)
    rows, workers = [], read_workers(group.client, group.names)
    for worker in workers:
        held = owners.get(worker.node, [])
        running = [
            parked
            for one in held
            if one.status.running
            for parked in islice(group.parked_keys.of_partition(int(one.partition) if one.partition.isdigit() else "ingress"), 1000)
            if parked.why == "running"
        ]
        rows.append({**_worker(worker), "waiting": sum(one.status.length for one in held), "running": running_keys(running)})
    return {"at": overview.at, "workers": rows, "versions": len(code_versions(workers))}


def _worker(worker: WorkerStatus) -> dict[str, Any]:
    report = worker.report
    empty = dict.fromkeys(("started_at", "host", "pid", "release", "code", "python", "memory_bytes", "sockets", "done_per_second"))
    found = empty if report is None else {name: getattr(report, name) for name in empty}
    calls = {} if report is None else {name: [report.in_flight.get(name, 0), limit] for name, limit in report.concurrency.items()}
    facts = {name: value for name, value in asdict(worker).items() if name != "report"}
    return {**facts, **found, "reported_at": None if report is None else report.at, "calls": calls}


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
