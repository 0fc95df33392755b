"""Sparklines: a series as a line of bars."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.cli.columns import sparkline


def test_a_line_of_bars() -> None:
    assert sparkline([], 8) == ""
    assert sparkline([0, 0], 8) == "▁▁"
    assert sparkline([0, 1, 2, 4, 8], 8) == "▁▁▂▄█"
    assert sparkline([1, 1, 1, 1, 0, 0, 8, 8], 4) == "▁▁▁█"


@given(st.lists(st.floats(0, 1e9), max_size=200), st.integers(1, 40))
def test_a_line_is_never_too_long(series: list[float], width: int) -> None:
    assert len(sparkline(series, width)) == min(len(series), width)
