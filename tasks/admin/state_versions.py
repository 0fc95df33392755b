"""Which versions the states and the workers of a group have, and what a deploy still waits for."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import redis

from celery_partitions.admin.numbers import counted
from celery_partitions.admin.status import node_name
from celery_partitions.admin.workers import OlderCode, WorkerStatus, older_code, read_workers
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_text
from celery_partitions.model.task_lines import partition_of_line
from celery_partitions.model.versions import FIRST
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.parked_keys import read_record
from celery_partitions.store.record import version_of
from celery_partitions.store.scripts import script
from celery_partitions.store.worker_code import WorkerCode

#: Records of each computation whose version is read: in each partition at most, and at least, and of all partitions together.
MAX_SAMPLE, MIN_SAMPLE, WHOLE_SAMPLE = 100, 4, 2_000
#: How many fields of a partition's parked keys are searched for the lines of unknown tasks, and the pattern of their names.
MAX_LINES, LINES_PATTERN = 10_000, "unknown task *"
#: More names are not listed in one sentence.
MAX_NAMES = 5


@dataclass(frozen=True, slots=True)
class ComputationVersions:
    """The versions of one computation's states."""

    computation: str
    states: int
    #: Version → about how many states have it, from a sample. -1: it cannot be read from the record.
    versions: dict[int, int]
    #: Highest version written → how many partitions have states of that version.
    partitions: dict[int, int]
    #: Version → nodes of the running workers whose code writes it.
    workers: dict[int, list[str]]


@dataclass(frozen=True, slots=True)
class WorkerVersion:
    """The code of a running worker, as it reports it."""

    node: str
    #: The release of celery-partitions, and a digest of the source files of its computations. None before its first report.
    release: str | None
    code: str | None
    #: Seconds since the epoch.
    started_at: float | None
    #: Its code is not that of the worker that started last.
    is_older: bool


@dataclass(frozen=True, slots=True)
class VersionReport:
    """A group during a deploy."""

    computations: list[ComputationVersions]
    #: What is not finished yet, as sentences. Empty: nothing.
    waits: list[str]
    workers: list[WorkerVersion] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Workers:
    """What the running workers publish about their code, by node."""

    reads: dict[str, WorkerCode]
    tasks: dict[str, set[str]]
    #: Partition → the nodes that cannot read its states.
    refused: dict[str, list[str]]
    owned: set[str]


def read_versions(client: redis.Redis, names: Names, partitions: int) -> VersionReport:
    """Read versions from the metas of all partitions, a sample of the states, what workers publish, and which messages wait for a task."""
    group_meta: Any = client.hkeys(names.group_meta)
    known = sorted(names.computations_in(group_meta))
    workers, numbers = _read_workers(client, names), [str(number) for number in range(partitions)]
    with client.pipeline(transaction=False) as pipe:
        for partition in numbers:
            pipe.hmget(names.meta(partition), [names.version_field(name) for name in known] or ["version:"])
        rows = pipe.execute(raise_on_error=False)
    many = max(MIN_SAMPLE, min(MAX_SAMPLE, WHOLE_SAMPLE // partitions))
    calls = [([names.states(partition, name) for name in known], [many]) for partition in numbers] if known else []
    samples = script("sample_versions").run_many(client, calls)
    found = []
    for at, name in enumerate(known):
        lengths, sampled, written = 0, Counter[int](), Counter[int]()
        for metas, sample in zip(rows, samples, strict=True):
            length, heads = (0, []) if isinstance(sample, Exception) else (sample[at][0], sample[at][1:])
            if length:
                lengths += length
                written[_number(metas[at]) if isinstance(metas, list) else FIRST] += 1
                for head in heads:
                    sampled[_version_of(head)] += length / len(heads)  # type: ignore[assignment]  # rounded below
        reads: dict[int, list[str]] = {}
        for node, code in workers.reads.items():
            if name in code.reads:
                reads.setdefault(code.reads[name], []).append(node)
        if lengths or reads:
            versions = {version: max(1, round(count)) for version, count in sorted(sampled.items())}
            found.append(ComputationVersions(name, lengths, versions, dict(sorted(written.items())), dict(sorted(reads.items()))))
    running = read_workers(client, names)
    older = older_code(running)
    waits = [*_unowned(names, workers), *_behind(found), *_unknown(known, workers, found), *_waiting(client, names, [*numbers, INGRESS])]
    if older is not None:
        waits.append(f"the code of {_listed(older.nodes)} is not that of the worker that started last")
    return VersionReport(found, waits, [_code_of(one, older) for one in running])


def _code_of(worker: WorkerStatus, older: OlderCode | None) -> WorkerVersion:
    report = worker.report
    is_older = older is not None and worker.node in older.nodes
    if report is None:
        return WorkerVersion(worker.node, None, None, None, is_older)
    return WorkerVersion(worker.node, report.release, report.code, report.started_at, is_older)


def _waiting(client: redis.Redis, names: Names, partitions: list[str]) -> list[str]:
    """Messages that wait in the lines of their tasks, because no worker that had their partition knew the task."""
    with client.pipeline(transaction=False) as pipe:
        for partition in partitions:
            pipe.hscan(names.parked(partition), match=LINES_PATTERN, count=MAX_LINES)
        pages = pipe.execute(raise_on_error=False)
        lines = [
            (partition, key_text(key), read_record(record).task)
            for partition, page in zip(partitions, pages, strict=True)
            for key, record in (() if isinstance(page, Exception) else page[1].items())
        ]
        for partition, line, _ in lines:
            pipe.llen(names.mailbox(partition, line))
        lengths = pipe.execute(raise_on_error=False)
    messages, places = Counter[str](), Counter[str]()
    for (_, line, task), length in zip(lines, lengths, strict=True):
        if partition_of_line(line) is not None and isinstance(length, int):
            messages[task or "?"] += length
            places[task or "?"] += 1
    return [
        f"{counted(count, 'message')} of the task {task!r} {'waits' if count == 1 else 'wait'} in {counted(places[task], 'partition')} for a worker that knows it"
        for task, count in sorted(messages.items())
    ]


def nodes_that_know(client: redis.Redis, names: Names, task: str) -> list[str]:
    """The running workers that know a computation or task, by node."""
    return [node for node, tasks in _read_workers(client, names).tasks.items() if task in tasks]


def _read_workers(client: redis.Redis, names: Names) -> _Workers:
    with client.pipeline(transaction=False) as pipe:
        pipe.zrange(names.workers, 0, -1, withscores=True)
        pipe.time()
        for name in (names.reads, names.tasks, names.refused, names.owners):
            pipe.hgetall(name)
        members, (seconds, micros), reads, tasks, refused, owners = pipe.execute()
    alive = {worker: node_name(worker.decode()) for worker, until in members if until >= seconds * 1000 + micros // 1000}
    found = _Workers({}, {}, {}, {partition.decode() for partition, worker in owners.items() if worker in alive})
    for worker, node in sorted(alive.items()):
        code = WorkerCode.from_json(reads.get(worker, b"{}"))
        found.reads[node] = WorkerCode() if code is None else code
        found.tasks[node] = set(filter(None, tasks.get(worker, b"").decode("utf-8", "replace").split("\n")))
        for partition in filter(None, refused.get(worker, b"").decode().split(",")):
            found.refused.setdefault(partition, []).append(node)
    return found


def _unowned(names: Names, workers: _Workers) -> list[str]:
    return [
        f"{names.queue_name(partition)} has no owner: newer code wrote its states, and no running worker can read them (not {_listed(nodes)}). "
        "Start workers with the newer code"
        for partition, nodes in sorted(workers.refused.items())
        if partition not in workers.owned
    ]


def _behind(found: list[ComputationVersions]) -> list[str]:
    """Workers whose code has an older version of a state than others, or than what is stored."""
    waits = []
    for one in found:
        newest = max([*one.workers, *one.partitions], default=FIRST)
        older = [node for version, nodes in one.workers.items() if version < newest for node in nodes]
        if older:
            waits.append(
                f"older code still runs on {_listed(older)}: it reads states of {one.computation!r} up to version "
                f"{max(version for version in one.workers if version < newest)}, and version {newest} is the newest"
            )
    return waits


def _unknown(known: list[str], workers: _Workers, found: list[ComputationVersions]) -> list[str]:
    """Computations that only some workers know, and states of those that none knows."""
    waits = []
    states = {one.computation: one.states for one in found}
    for name in known if workers.tasks else ():
        without = [node for node, tasks in workers.tasks.items() if name not in tasks]
        if without and len(without) < len(workers.tasks):
            waits.append(f"the computation {name!r} is unknown to {_listed(without)}")
        elif without and states.get(name):
            waits.append(f"no running worker knows the computation {name!r}, which has {counted(states[name], 'state')}")
    return waits


def _listed(nodes: list[str]) -> str:
    more = len(nodes) - MAX_NAMES
    return ", ".join(nodes[:MAX_NAMES]) + (f" and {more} more" if more > 0 else "")


def _version_of(head: bytes) -> int:
    try:
        return version_of(head)
    except StateError:
        return -1


def _number(written: bytes | None) -> int:
    return int(written) if written is not None and written.isdigit() and len(written) < 10 else FIRST
