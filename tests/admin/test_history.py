"""Rates and sparklines computed from overviews, on a fake clock."""

from __future__ import annotations

from dataclasses import replace

import pytest

from celery_partitions.admin.history import Flow, History
from celery_partitions.admin.overview import Overview, PartitionOverview
from celery_partitions.admin.overview_json import row_of, to_json
from celery_partitions.admin.status import PartitionStatus
from celery_partitions.store.history import Point
from celery_partitions.store.telemetry import LATENCY_SECONDS, LastError, Measurements

#: A time at which a span starts, for any number of points.
START = 1_700_000_100.0


def partition(
    name: str,
    *,
    processed: int = 0,
    length: int = 0,
    forwarded: int = 0,
    delayed: int = 0,
    weight: int | None = None,
    measured: Measurements | None = None,
) -> PartitionOverview:
    status = PartitionStatus(f"q.{name}", None, length, processed, 0, 0, 0, paused=False, delayed=delayed)
    return PartitionOverview(
        partition=name,
        status=status,
        lease_age_seconds=None,
        oldest_age_seconds=None,
        state_bytes=weight,
        failed=0,
        forwarded=forwarded,
        emitted=0,
        deduplicated=0,
        skipped=0,
        late=0,
        dead_lettered=0,
        measurements=measured or Measurements(),
    )


def at(seconds: float, *partitions: PartitionOverview) -> Overview:
    return Overview(START + seconds, partitions)


def fed(*overviews: Overview, **options: float) -> History:
    history = History(**options)
    for overview in overviews:
        history.add(overview)
    return history


def test_nothing_is_known_before_the_second_overview() -> None:
    history = History()
    assert (history.now("1"), history.series("1"), history.state_bytes()) == (None, [], None)
    history.add(at(0, partition("1", processed=9)))
    assert (history.now("1"), history.now(), history.series("1")) == (None, None, [])


def test_a_rate_is_the_difference_of_the_counters_divided_by_the_time() -> None:
    history = fed(at(0, partition("1", processed=100, length=50)), at(2, partition("1", processed=160, length=70)))
    assert history.now("1") == Flow(START + 2, (60 + 20) / 2, 60 / 2, 70)
    assert history.now("2") is None, "the partition did not exist before"


def test_a_parked_or_delayed_message_arrives_once() -> None:
    history = fed(at(0, partition("1")), at(2, partition("1", delayed=10)), at(4, partition("1", length=10)))
    assert [flow.in_per_second for flow in history.series("1", 150)] == [5, 0]


def test_a_forwarded_message_counts_once_in_the_total() -> None:
    history = fed(at(0, partition("0"), partition("in")), at(2, partition("0", processed=10), partition("in", forwarded=10)))
    rates = [(flow.in_per_second, flow.done_per_second) for flow in map(history.now, ("0", "in", None)) if flow]
    assert rates == [(5, 5), (5, 5), (5, 5)]


def test_overviews_in_quick_succession_replace_each_other() -> None:
    history = fed(*(at(number / 10, partition("1", processed=number)) for number in range(101)))
    assert len(history._points) <= 7
    assert history.now("1") == Flow(START + 10, 10, 10, 0)
    assert all(flow.done_per_second == pytest.approx(10) for flow in history.series("1"))


def test_only_the_last_minutes_are_kept() -> None:
    history = fed(*(at(2.0 * number, partition("1", processed=20 * number)) for number in range(1000)))
    series = history.series("1")
    assert len(history._points) <= 153
    assert 60 <= len(series) <= 62
    assert series[0].at >= START + 2 * 999 - 300
    assert series[-1].at == START + 2 * 999
    assert {flow.done_per_second for flow in series} == {10}


def test_a_finished_point_never_changes() -> None:
    history = History()
    before: list[Flow] = []
    for number in range(100):
        history.add(at(2.0 * number, partition("1", processed=number * number)))
        series = history.series("1", 60)
        assert series[: len(before) - 1] == before[:-1]
        before = series


def test_deleted_counters_and_a_clock_that_was_set_back_give_no_negative_rate() -> None:
    history = fed(at(0, partition("1", processed=100)), at(2, partition("1", processed=0)))
    assert history.now("1") == Flow(START + 2, 0, 0, 0)
    history.add(at(-50, partition("1", processed=10)))
    assert history.now("1") is None
    history.add(at(-48, partition("1", processed=20)))
    assert history.now("1") == Flow(START - 48, 5, 5, 0)


def test_after_a_gap_nothing_before_it_counts() -> None:
    """Nobody looked for hours, and nothing flowed meanwhile."""
    history = fed(at(0, partition("1", measured=latencies(2799.0))), at(2, partition("1", processed=4_000_000, length=700)))
    history.add(at(10_000, partition("1", processed=8_000_000, measured=latencies(2799.0))))
    assert (history.now("1"), history.series("1"), history.latencies((0.99,), "1")[0]) == (None, [], None)
    history.add(at(10_002, partition("1", processed=8_000_000, measured=latencies(2799.0))))
    assert history.now("1") == Flow(START + 10_002, 0, 0, 0)
    assert history.latencies((0.99,), "1")[0] is None


def point(seconds: float, left: int, waiting: int = 0) -> Point:
    return Point(int(START + seconds), left, 0, 0, waiting, 0, 0, 0, -1, -1)


def test_it_begins_with_what_workers_wrote() -> None:
    history = History()
    now = at(0, partition("0", processed=1000, length=50, forwarded=500), partition("1", processed=90))
    assert history.is_behind(now.at)
    old, young = [point(-400, 0), point(-30, 500, 20), point(-20, 1000, 40), point(-10, 1400, 50)], [point(-15, 90)]
    history.begin({"0": old, "1": young, "2": []}, now.at, forwarded=500)
    history.add(now)
    assert not history.is_behind(now.at)
    assert history.series("0", 60)[:2] == [Flow(START - 20, 52, 50, 40), Flow(START - 10, 41, 40, 50)]
    assert history.now("0") == Flow(START, 10, 10, 50)
    assert history.now("1") == Flow(START, 0, 0, 0), "it has its first count before its first point too"
    assert history.now() == Flow(START, 10, 10, 50)
    assert history.is_behind(now.at + 31) and history.is_behind(now.at - 1)


def latencies(*seconds: float) -> Measurements:
    found = Measurements()
    for one in seconds:
        found.latency.observe(LATENCY_SECONDS, one)
    return found


def test_latencies_cover_the_kept_minutes() -> None:
    slow, quick = [20.0] * 100, [0.004] * 100
    history = fed(at(0, partition("1", measured=latencies(*slow))))
    assert history.latencies((0.5,), "1")[0] is None, "measuring: what came since the group began says nothing about now"
    history.add(at(2, partition("1", measured=latencies(*slow))))
    assert history.latencies((0.5,), "1")[0] is None, "no messages since then"
    history.add(at(4, partition("1", measured=latencies(*slow, *quick)), partition("2", measured=latencies(*[0.3] * 100))))
    assert history.latencies((0.5,), "1")[0] == pytest.approx(0.00375)
    assert history.latencies((0.99,))[0] == pytest.approx(0.495), "all partitions together"
    assert history.latencies((0.5,), "3")[0] is None
    for number in range(400):
        history.add(at(6 + 2 * number, partition("1", measured=latencies(*slow, *quick))))
    assert history.latencies((0.99,), "1")[0] is None, "five minutes later"
    assert len(history._latencies) <= 12


def test_the_rows_have_the_documented_fields() -> None:
    measured = latencies(*[0.003] * 100)
    measured.last_error = LastError("ValueError: why", 5.0, "k", "m")
    history = fed(
        at(0, partition("0", weight=70), partition("ingress", weight=7)),
        at(2, partition("0", processed=10, length=3), partition("ingress")),
    )
    last = at(4, partition("0", processed=20, length=4, measured=measured), partition("ingress"))
    history.add(last)
    found = to_json(last, history, points=150)
    assert found["at"] == START + 4
    assert found["partitions"][0] == {
        "queue": "q.0",
        "partition": "0",
        "state": "unowned",
        "owner": None,
        "refused_to": [],
        "server": None,
        "lease_age_seconds": None,
        "waiting": 4,
        "delayed": 0,
        "oldest_age_seconds": None,
        "in_per_second": 5.5,
        "done_per_second": 5.0,
        "history": [(START + 2, 6.5, 5.0, 3), (START + 4, 5.5, 5.0, 4)],
        "latency_p50_seconds": 0.00375,
        "latency_p99_seconds": 0.004975,
        "keys": 0,
        "state_bytes": 70,
        "parked": 0,
        "running": 0,
        "dead_letters": 0,
        "last_error": {"text": "ValueError: why", "at": 5.0, "key": "k", "message_id": "m"},
        "paused": False,
        "processed": 20,
        "failed": 0,
        "forwarded": 0,
        "emitted": 0,
        "deduplicated": 0,
    }
    words = {"0": "stalled"}
    owned = replace(last.partitions[0], status=replace(last.partitions[0].status, owner="one@h"))
    assert [row_of(owned, history, words)["state"], row_of(owned, history)["state"]] == ["stalled", "running"]
    totals = found["totals"]
    assert (totals["waiting"], totals["done_per_second"], totals["state_bytes"], totals["partitions"]) == (4, 5.0, 77, 2)
    assert (totals["held"], totals["workers"], totals["paused"], totals["history"][-1][3]) == (0, 0, 0, 4)
    assert to_json(last, history, points=0)["partitions"][0]["history"] == []
