"""A worker's measurements are in Redis a second later and remain there when the worker ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from celery_partitions.admin.overview import read_overview
from celery_partitions.store.history import Point, read_points
from celery_partitions.store.measurements import read_computations, read_recent_commits
from celery_partitions.store.recent_commits import RecentCommit
from celery_partitions.store.telemetry import BOUNDS, Measurements
from celery_partitions.store.worker_reports import load_reports
from tests.fundamentals.application import Deed, Step, record, witness
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.wait import wait_until

Make = Callable[..., LiveGroup]


def measured(live: LiveGroup) -> Measurements:
    """The measurements of all partitions together."""
    parts, whole = [partition.measurements for partition in read_overview(live.group).partitions], Measurements()
    for name in BOUNDS:
        mine = getattr(whole, name)
        for other in (getattr(part, name) for part in parts):
            mine.counts = [a + b for a, b in zip(mine.counts, other.counts, strict=True)]
            mine.total += other.total
    for name in ("takeovers", "fenced", "cache_hits", "cache_misses", "retried", "removals"):
        setattr(whole, name, sum(getattr(part, name) for part in parts))
    whole.last_error = max((part.last_error for part in parts if part.last_error is not None), key=lambda one: one.at, default=None)
    whole.last_removal = max((part.last_removal for part in parts if part.last_removal is not None), key=lambda one: one.at, default=None)
    return whole


def wait_measured(live: LiveGroup, predicate: Callable[[Measurements], bool], message: str) -> Measurements:
    return wait_until(lambda: found if predicate(found := measured(live)) else None, PATIENCE_SECONDS, message=message)  # type: ignore[return-value]


def commits(live: LiveGroup, partition: str) -> list[RecentCommit]:
    return read_recent_commits(live.group.client, live.group.names, partition)


def test_batches_are_measured_and_the_next_worker_continues_the_counts(make_live: Make) -> None:
    live = make_live(PARTITIONS=2)
    live.send(record, [Step(f"key {number % 10}", number // 10) for number in range(100)])
    began = time.time()
    (worker,) = live.start_workers(1)
    found = wait_measured(live, lambda found: found.batch.total == 100, "100 messages")
    took = time.time() - began
    assert found.batch.count == found.commit.count
    assert found.latency.count == found.computation.count == 100
    assert 0 < found.latency.total / 100 <= took + 1
    assert 0 < found.computation.total < took
    assert 0 < found.commit.total < took
    assert (found.cache_misses, found.cache_hits) == (10, 90)
    assert (found.takeovers, found.fenced, found.retried, found.last_error) == (3, 0, 0, None)
    worker.terminate()
    worker.wait()
    live.start_workers(1)
    live.send(record, [Step("key 0", 10)])
    found = wait_measured(live, lambda found: found.batch.total == 101, "one more")
    assert (found.takeovers, found.cache_misses, found.cache_hits, found.latency.count) == (6, 11, 90, 101)


def test_failures_are_recorded_with_their_key_and_message(make_live: Make) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=1, PARTITIONS_RETRY_EXHAUSTED="dead_letter", PARTITIONS_RETRY_BACKOFF_SECONDS=0.01)
    live.start_workers(1)
    message = live.send_task("fail", {"key": "a", "number": 1, "fail": True})
    live.dead_letter_of(message)
    found = wait_measured(live, lambda found: found.retried == 1 and found.last_error is not None, "a retry")
    assert found.last_error is not None
    assert (found.last_error.key, found.last_error.message_id) == ("a", message)
    assert abs(found.last_error.at - time.time()) < PATIENCE_SECONDS
    of_computation = read_computations(live.client, live.names)["fail"]
    assert (of_computation.failed, of_computation.retried, of_computation.dead) == (2, 1, 1)


def test_a_worker_that_was_suspended_past_its_lease_counts_the_refused_commit(make_live: Make) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_LEASE_SECONDS=0.5)
    (first,) = live.start_workers(1)
    live.send(witness, [Deed("a", 0, 0.5)])
    wait_until(lambda: live.witnessed(), PATIENCE_SECONDS, message="the computation did not start")
    first.stop_process()
    live.start_worker()
    wait_until(lambda: live.processed() == 1, PATIENCE_SECONDS, message="no worker took over")
    first.continue_process()
    # Refused work is not measured.
    wait_measured(live, lambda found: (found.fenced, found.batch.total) == (1, 1), "a refused commit, and one that was not")


def test_the_last_commits_are_recorded_with_their_outcomes(make_live: Make) -> None:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    live.send(record, [Step(f"key {number % 2}", number // 2) for number in range(4)])
    (worker,) = live.start_workers(1)
    (first,) = wait_until(lambda: commits(live, "0"), PATIENCE_SECONDS, message="no commit was recorded")
    assert (first.taken, first.processed, first.states, first.failed, first.error) == (4, 4, 2, 0, "")
    assert 0 < first.computation_seconds < PATIENCE_SECONDS
    assert first.commit_seconds is not None and 0 < first.commit_seconds < PATIENCE_SECONDS
    assert abs(first.at - time.time()) < PATIENCE_SECONDS
    live.dead_letter_of(live.send_task("fail", {"key": "a", "number": 1, "fail": True}))
    wait_until(lambda: len(commits(live, "0")) == 2, PATIENCE_SECONDS, message="the failure was not recorded")
    second, _ = commits(live, "0")
    assert (second.taken, second.processed, second.failed, second.dead, second.states) == (1, 0, 1, 1, 0)
    assert second.commit_number > first.commit_number
    assert second.error == "ValueError: 1 fails on purpose"
    assert (second.worker, second.token) == (first.worker, first.token)
    worker.terminate()
    worker.wait()
    live.start_workers(1)
    live.send(record, [Step("key 0", 2)])
    wait_until(lambda: len(commits(live, "0")) == 3, PATIENCE_SECONDS, message="the next worker recorded nothing")
    third = commits(live, "0")[0]
    assert third.worker != first.worker and third.token > first.token


def test_histories_are_written_without_a_viewer_and_while_nothing_happens(make_live: Make) -> None:
    live = make_live(PARTITIONS=1)
    (worker,) = live.start_workers(1)
    live.send(record, [Step("key", number) for number in range(3)])
    live.send_task("fail", {"key": "a", "number": 1, "fail": True})
    keys = [live.names.history("0", "fine"), live.names.computation_history("record", "fine")]

    def points() -> list[list[Point]] | None:
        found = read_points(live.client, keys, 100)
        return found if all(one and one[-1].left == 3 for one in found) else None

    before, _ = wait_until(points, PATIENCE_SECONDS, message="no points")
    assert max(point.p50 for point in before) >= 0
    after, _ = wait_until(lambda: found if (found := points()) and len(found[0]) > len(before) else None, PATIENCE_SECONDS, message="an idle partition has no points")
    assert after[-1].left == 3
    found = read_computations(live.client, live.names)
    assert (found["record"].processed, found["record"].computation.count, found["record"].latency.count) == (3, 3, 3)
    assert found["fail"].failed >= 1
    assert found["fail"].last_error is not None and found["fail"].last_error.key == "a"
    (report,) = load_reports(live.client.hgetall(live.names.reports)).values()  # type: ignore[arg-type]
    assert report.pid == worker.pid
    assert report.memory_bytes is None or report.memory_bytes > 10_000_000
