"""Series for charts from the points that workers wrote."""

from __future__ import annotations

import pytest

from celery_partitions.admin.history_json import RANGES, Sample, marks, points_in, samples
from celery_partitions.store.history import MAX_POINTS, Point
from tests.admin.test_attention import NOW, facts, partition, worker


def point(ago: int, left: int, waiting: int = 0, p99: int = -1, failed: int = 0) -> Point:
    return Point(int(NOW) - ago, left, failed, 0, waiting, 0, 0, 0, -1, p99)


def test_rates_of_one_history() -> None:
    points = [point(40, 0), point(30, 100, 20, failed=5), point(20, 300, 0, 250_000, failed=5)]
    assert samples({"0": points}, 3600, NOW) == [
        Sample(int(NOW) - 30, 12.0, 10.0, 20, None, 0.5),
        Sample(int(NOW) - 20, 18.0, 20.0, 0, 0.25, 0.0),
    ]


def test_several_histories_are_added_up_and_one_that_begins_later_makes_no_jump() -> None:
    first, second = [point(40, 0), point(30, 100), point(20, 200, 7)], [point(29, 5_000_000, 3), point(19, 5_000_050, 3)]
    found = samples({"0": first, "1": second, "2": []}, 3600, NOW)
    assert found[0].done_per_second == pytest.approx(100 / 11, abs=0.1)
    assert [one.waiting for one in found] == [3, 10]
    assert max(one.done_per_second for one in found) < 20


def test_forwarded_messages_and_what_is_too_old() -> None:
    assert samples({"0": [point(4000, 0), point(3900, 10)]}, 3600, NOW) == []
    assert samples({}, 3600, NOW) == []
    assert samples({"0": [point(40, 10), point(30, 20)]}, 3600, NOW, forwarded=10)[0].done_per_second == 1.0


def test_a_gap_is_one_long_step() -> None:
    (one,) = samples({"0": [point(1040, 0), point(40, 100)]}, 3600, NOW)
    assert one.done_per_second == 0.1


def test_the_points_of_each_range_are_kept() -> None:
    assert {seconds: points_in(seconds) for seconds in RANGES} == {3600: 361, 21600: 73, 172800: 577}
    assert all(points_in(seconds) <= MAX_POINTS[resolution] + 1 for seconds, resolution in RANGES.items())


def test_takeovers_and_deploys_are_marked() -> None:
    overview = facts(partition("1", takeovers=(NOW - 30, NOW - 9000)), partition("2", takeovers=(NOW - 50,))).overview
    workers = [worker("old"), worker("new", code="bbbb", started=NOW - 40), worker("new2", code="bbbb", started=NOW - 20)]
    assert [(mark["at"], mark["what"]) for mark in marks(overview, workers, 3600)] == [
        (NOW - 50, "partition.2 was taken from a dead worker"),
        (NOW - 40, "a worker with other code started on h"),
        (NOW - 30, "partition.1 was taken from a dead worker"),
    ]
    assert [mark["at"] for mark in marks(overview, [], 3600, "2")] == [NOW - 50]
