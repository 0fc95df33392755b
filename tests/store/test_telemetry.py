"""Histograms with fixed bounds, and the measurements of a partition as JSON."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as some

from celery_partitions.store.telemetry import (
    LATENCY_SECONDS,
    Histogram,
    LastError,
    Measurements,
    dump_measurements,
    load_measurements,
    merged,
)

BOUNDS = (1.0, 2.0, 4.0)


def of(*values: float) -> Histogram:
    found = Histogram([0] * (len(BOUNDS) + 1))
    for value in values:
        found.observe(BOUNDS, value)
    return found


def test_a_bucket_includes_its_upper_bound() -> None:
    found = of(0, 1, 1.5, 2, 3, 4, 5)
    assert (found.counts, found.count, found.total) == ([2, 2, 2, 1], 7, 16.5)


def test_one_value_may_be_added_with_a_count() -> None:
    found = of()
    found.observe(BOUNDS, 2.5, 100)
    assert (found.counts, found.total) == ([0, 0, 100, 0], 250.0)


def test_a_quantile_is_interpolated_between_the_bounds() -> None:
    found = of(*[0.5] * 50, *[3.0] * 50)
    assert found.quantile(BOUNDS, 0.5) == 1.0
    assert found.quantile(BOUNDS, 0.25) == 0.5
    assert found.quantile(BOUNDS, 0.75) == 3.0
    assert found.quantile(BOUNDS, 1.0) == 4.0


def test_an_empty_histogram_has_no_quantile_and_the_last_bound_is_the_maximum() -> None:
    assert of().quantile(BOUNDS, 0.5) is None
    assert of(1000).quantile(BOUNDS, 0.5) == 4.0


@given(some.lists(some.floats(0, 5000), min_size=1), some.floats(0, 1))
def test_the_error_of_a_quantile_is_at_most_its_bucket(values: list[float], share: float) -> None:
    found = Measurements().latency
    for value in values:
        found.observe(LATENCY_SECONDS, value)
    exact = sorted(values)[min(len(values) - 1, max(0, -(-round(share * len(values) * 1e9) // 10**9) - 1))]
    quantile = found.quantile(LATENCY_SECONDS, share)
    edges = (0.0, *LATENCY_SECONDS, float("inf"))
    bucket = next(number for number, edge in enumerate(edges[1:]) if exact <= edge)
    assert quantile is not None
    assert min(edges[max(0, bucket - 1)], LATENCY_SECONDS[-1]) <= quantile <= min(edges[min(bucket + 2, len(edges) - 1)], LATENCY_SECONDS[-1])


def test_the_difference_to_an_earlier_histogram() -> None:
    before, now = of(1, 3), of(1, 3, 3, 5)
    assert now.since(before) == of(3, 5)
    assert of(1).since(before) == of(1), "it was deleted in between"
    assert now.since(Histogram([1])) == now, "the other one has other bounds"


def test_json_and_back() -> None:
    found = Measurements(takeovers=2, last_error=LastError("ValueError: no", 12.5, "AAPL", "m"))
    found.latency.observe(LATENCY_SECONDS, 0.02, 7)
    assert load_measurements(dump_measurements(found)) == found


@pytest.mark.parametrize("text", [None, b"", b"\xff", b"7", b'{"latency": 3}', b'{"latency":{"counts":[1,2],"total":3}}'])
def test_invalid_json_counts_as_nothing(text: bytes | None) -> None:
    assert load_measurements(text) == Measurements()


def test_latencies_of_all_partitions_are_added_up() -> None:
    one, two = Measurements().latency, Measurements().latency
    one.observe(LATENCY_SECONDS, 0.02, 7)
    two.observe(LATENCY_SECONDS, 20, 3)
    whole = merged([one, two])
    assert (whole.count, whole.total) == (10, pytest.approx(60.14))
    assert merged([]) == Measurements().latency
