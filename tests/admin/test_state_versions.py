"""Which versions states and workers have, and what a deploy waits for."""

from __future__ import annotations

import pickle
from collections.abc import Mapping

import redis

from celery_partitions.admin.state_versions import VersionReport, read_versions
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.task_lines import line_of_task
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.leases import balance, release
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import dump_parked
from celery_partitions.store.worker_code import WorkerCode
from celery_partitions.store.worker_reports import WorkerReport, dump_report

N = 4


def work(client: redis.Redis, names: Names, worker: str, reads: Mapping[str, int], refused: tuple[str, ...] = ()) -> dict[str, int]:
    """A worker with this code looks at its share. Returns what it owns."""
    code = WorkerCode(reads)
    for _ in range(2):
        share = balance(client, names, worker, lease_seconds=60, partitions=N, tasks=reads, code=code, refused=refused)
        refused = tuple(share.refused)
        if share.give_up:
            release(client, names, worker, {partition: share.owned[partition] for partition in share.give_up})
    return dict(share.owned)


def store(client: redis.Redis, names: Names, partition: str, version: int, count: int) -> None:
    codec = StateCodec()
    for number in range(count):
        header = {"v": version} if version > 1 else None
        key = f"{partition} {version} {number}"
        client.hset(names.states(partition, "count"), key, codec.seal("count", key, pickle.dumps("x" * 1000), header))  # type: ignore[arg-type]
    if version > 1:
        client.hset(names.meta(partition), names.version_field("count"), version)
    client.hset(names.group_meta, names.computation_field("count"), 1)


def look(client: redis.Redis, names: Names) -> VersionReport:
    return read_versions(client, names, N)


def test_an_empty_group(client: redis.Redis, names: Names) -> None:
    assert look(client, names) == VersionReport([], [])


def test_the_versions_of_states_are_estimated_from_a_sample(client: redis.Redis, names: Names) -> None:
    store(client, names, "0", 1, 300)
    store(client, names, "1", 1, 40)
    store(client, names, "1", 2, 60)
    client.hset(names.states("2", "count"), "bad", b"\xffrubbish")  # type: ignore[arg-type]
    (one,) = look(client, names).computations
    assert (one.states, one.versions, one.partitions, one.workers) == (401, {-1: 1, 1: 340, 2: 60}, {1: 2, 2: 1}, {})


def test_what_a_deploy_waits_for(client: redis.Redis, names: Names) -> None:
    store(client, names, "0", 2, 1)
    work(client, names, "old@host/1", {"count": 1, "gone": 1})
    assert look(client, names).waits == [
        "partition.0 has no owner: newer code wrote its states, and no running worker can read them (not old@host). Start workers with the "
        "newer code",
        "older code still runs on old@host: it reads states of 'count' up to version 1, and version 2 is the newest",
    ]
    client.hset(names.group_meta, names.computation_field("gone"), 1)
    client.hset(names.group_meta, names.computation_field("removed"), 1)
    client.hset(names.states("1", "removed"), "key", b"\x01N.")  # type: ignore[arg-type]
    work(client, names, "new@host/1", {"count": 2})
    assert "0" in work(client, names, "new@host/1", {"count": 2})
    assert look(client, names).waits == [
        "older code still runs on old@host: it reads states of 'count' up to version 1, and version 2 is the newest",
        "the computation 'gone' is unknown to new@host",
        "no running worker knows the computation 'removed', which has 1 state",
    ]
    (count, *_) = look(client, names).computations
    assert count.workers == {1: ["old@host"], 2: ["new@host"]}
    release(client, names, "old@host/1", {}, leave=True)
    assert [text for text in look(client, names).waits if "removed" not in text] == []


def test_messages_of_an_unknown_task_and_workers_with_older_code(client: redis.Redis, names: Names) -> None:
    for partition, count in (("0", 2), ("1", 1), ("ingress", 3)):
        line = line_of_task("pay", partition)
        client.hset(names.parked(partition), mapping={line: dump_parked(ParkedKey(1.0, 2, task="pay", reason="unknown-task")), "key": b"rubbish"})
        client.lpush(names.mailbox(partition, line), *["x"] * count)
    work(client, names, "old@h/1", {})
    work(client, names, "new@h/1", {})
    for worker, code, started in (("old@h/1", "aaaa", 1.0), ("new@h/1", "bbbb", 2.0)):
        client.hset(names.reports, worker, dump_report(WorkerReport(3.0, started, "h", 1, "1.0", code, "3.11")))
    report = look(client, names)
    assert report.waits == [
        "6 messages of the task 'pay' wait in 3 partitions for a worker that knows it",
        "the code of old@h is not that of the worker that started last",
    ]
    assert [(one.node, one.code, one.is_older) for one in report.workers] == [("new@h", "bbbb", False), ("old@h", "aaaa", True)]


def test_forged_metas_and_reports_are_no_error(client: redis.Redis, names: Names) -> None:
    store(client, names, "0", 2, 1)
    work(client, names, "one@host/1", {"count": 2})
    client.hset(names.meta("0"), names.version_field("count"), "x" * 20)
    client.hset(names.reads, "one@host/1", b"\xff{")  # type: ignore[arg-type]
    client.set(names.states("1", "count"), "a text")
    (one,) = look(client, names).computations
    assert (one.partitions, one.workers) == ({1: 1}, {})
