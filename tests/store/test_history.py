"""add_points.lua: bounded histories of partitions and computations, one point per step however many workers write."""

from __future__ import annotations

import json
import random

import redis

from celery_partitions.store.history import MAX_POINTS, STEP_SECONDS, Latency, Point, add_points, parse, read_points
from celery_partitions.store.measurements import add_measurements, read_computations
from celery_partitions.store.names import Names
from celery_partitions.store.telemetry import ComputationMeasurements, LastError
from celery_partitions.store.worker_reports import WorkerReport, dump_report, load_reports

REPORT = WorkerReport(1.0, 2.0, "host", 7, "1.0", "abcd", "3.11", in_flight={"call": 3}, concurrency={"call": 50})


def add(client: redis.Redis, names: Names, *partitions: str, worker: str = "one@h/u", **computations: Latency) -> None:
    found = dict.fromkeys(partitions, Latency(0.001, 0.25))
    add_points(client, names, found, computations, worker=worker, report=dump_report(REPORT))


def fine(client: redis.Redis, names: Names, partition: str = "1") -> list[Point]:
    return read_points(client, [names.history(partition, "fine")], 10)[0]


def forget_step(client: redis.Redis, names: Names) -> None:
    """Make the newest points a step old."""
    for key in (names.history("1", "fine"), names.computation_history("pay", "fine")):
        head = client.lindex(key, 0)
        if isinstance(head, bytes):
            at, rest = head.split(b" ", 1)
            client.lset(key, 0, b"%d %s" % (int(at) - STEP_SECONDS["fine"], rest))  # type: ignore[arg-type]


def test_a_point_has_the_counters_of_the_commits_and_what_waits(client: redis.Redis, names: Names) -> None:
    counters = {"processed": 70, "forwarded": 5, "skipped": 2, "deduplicated": 3, "dead": 1, "failed": 6, "running": 1}
    client.hset(names.meta("1"), mapping=counters)
    client.lpush(names.queue("1"), "a", "b", "c")
    client.zadd(names.delayed("1"), {"x": 1, "y": 2})
    client.hset(names.parked("1"), mapping={"k": "{}", "l": "{}", "running": "{}"})
    client.hset(names.dead("1"), "1-0-0", "{}")
    add(client, names, "1", "2")
    (point,) = fine(client, names)
    assert point == Point(point.at, 81, 6, 1, 3, 2, 2, 1, 1000, 250_000)
    assert point.came == 81 + 3 + 2
    assert abs(point.at - client.time()[0]) < 5  # type: ignore[index]
    (empty,) = fine(client, names, "2")
    assert empty == Point(empty.at, 0, 0, 0, 0, 0, 0, 0, 1000, 250_000)
    assert read_points(client, [names.history("1", "coarse")], 10) == [[point]]


def test_a_history_gets_one_point_per_step(client: redis.Redis, names: Names) -> None:
    for _ in range(3):
        add(client, names, "1", pay=Latency())
    assert len(fine(client, names)) in (1, 2), "a step may have begun meanwhile"
    many = len(fine(client, names))
    forget_step(client, names)
    client.hset(names.meta("1"), "processed", 9)
    add(client, names, "1", pay=Latency())
    assert len(fine(client, names)) == many + 1
    assert fine(client, names)[-1].left == 9


def test_a_computation_has_the_sums_of_all_workers(client: redis.Redis, names: Names) -> None:
    error = LastError("no", 7.25, "k", None)
    for _ in range(2):
        add_measurements(client, names, {}, {}, {"pay": ComputationMeasurements(processed=10, failed=2, dead=1, last_error=error)})
    found = read_computations(client, names)["pay"]
    assert (found.processed, found.failed, found.dead, found.last_error) == (20, 4, 2, error)
    add(client, names, pay=Latency(0.5, None))
    ((point,),) = read_points(client, [names.computation_history("pay", "fine")], 10)
    assert point == Point(point.at, 20, 4, 2, 0, 0, 0, 0, 500_000, -1)


def test_only_workers_with_leases_have_reports(client: redis.Redis, names: Names) -> None:
    client.zadd(names.workers, {"one@h/u": 1, "two@h/u": 2})
    add(client, names, "1")
    add(client, names, worker="two@h/u")
    assert load_reports(client.hgetall(names.reports)) == {"one@h/u": REPORT, "two@h/u": REPORT}  # type: ignore[arg-type]
    client.zrem(names.workers, "one@h/u")
    add(client, names, worker="gone@h/u")
    assert list(load_reports(client.hgetall(names.reports))) == ["two@h/u"]  # type: ignore[arg-type]
    client.hset(names.reports, "two@h/u", b"no JSON")
    assert load_reports(client.hgetall(names.reports)) == {}  # type: ignore[arg-type]


def test_keys_of_other_types_and_unreadable_points_do_no_harm(client: redis.Redis, names: Names) -> None:
    client.set(names.meta("1"), "x")
    client.set(names.queue("1"), "x")
    client.lpush(names.history("1", "fine"), "no point", "1 2 3")
    client.set(names.history("1", "coarse"), "x")
    client.hset(names.computations, "pay", json.dumps({"processed": "x"}))
    add(client, names, "1", pay=Latency())
    assert [point.left for point in fine(client, names)] == [0]
    assert read_points(client, [names.history("1", "coarse")], 10) == [[]]
    assert parse([b"20 1 1 1 1 1 1 1 1 1", b"30 1 1 1 1 1 1 1 1 1", b"10 1 1 1 1 1 1 1 1 1"]) == [
        Point(10, *[1] * 9), Point(30, *[1] * 9)
    ], "a point that goes back in time is left out"  # fmt: skip


def test_the_histories_of_a_busy_partition_take_at_most_60_kilobytes(client: redis.Redis, names: Names) -> None:
    chance = random.Random(1)
    for resolution, kept in MAX_POINTS.items():
        key = names.history("1", resolution)
        for number in range(kept + 5):
            point = Point(1_764_000_000 + number, chance.randrange(10**9), 1234, 56, 12_345, 12, 345, 67, 12_345, 234_567)
            client.lpush(key, " ".join(map(str, point)))
    add(client, names, "1")
    assert sum(client.memory_usage(names.history("1", one), samples=0) for one in MAX_POINTS) < 60_000  # type: ignore[misc]
    assert client.llen(names.history("1", "fine")) == MAX_POINTS["fine"]
