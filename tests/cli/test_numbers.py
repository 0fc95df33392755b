"""Figures in little room."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.cli.numbers import age, moment, number, size, sparkline


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (None, "-"),
        (0, "0"),
        (0.04, "0.0"),
        (7, "7"),
        (9.96, "10.0"),
        (12.4, "12"),
        (12_345, "12,345"),
        (99_999, "99,999"),
        (123_456, "123k"),
        (999_960, "1.0M"),
        (1_234_567, "1.2M"),
        (5e15, "5000T"),
    ],
)
def test_a_number(value: float | None, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (250_000, "250 kB"), (3_000_000_000, "3.0 GB")],
)
def test_a_size(value: int | None, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (0.00123, "1.2 ms"),
        (0.012, "12 ms"),
        (0.9996, "1.0 s"),
        (3.14, "3.1 s"),
        (42, "42 s"),
        (300, "5 min"),
    ],
)
def test_a_latency(seconds: float | None, text: str) -> None:
    assert moment(seconds) == text


@given(st.floats(0, 1e14))
def test_figures_keep_to_their_columns(value: float) -> None:
    assert len(number(value)) <= 7
    assert len(number(int(value))) <= 7
    assert len(size(value)) <= 8
    assert len(moment(min(value, 1e8))) <= 7
    assert len(age(min(value, 1e8))) <= 6


def test_a_line_of_bars() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([0, 0], 8) == "▁▁"
    assert sparkline([0, 1, 2, 4, 8], 8) == "▁▁▂▄█"
    assert sparkline([1, 1, 1, 1, 0, 0, 8, 8], 4) == "▁▁▁█"


@given(st.lists(st.floats(0, 1e9), max_size=200), st.integers(1, 40))
def test_a_line_is_never_too_long(series: list[float], width: int) -> None:
    assert len(sparkline(series, width)) == min(len(series), width)
