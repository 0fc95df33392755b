"""Numbers for people: short, in one unit, never with an exponent."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.admin.numbers import UNKNOWN, ago, count, number, size, span


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.04, "0.0"),
        (7, "7"),
        (9.96, "10"),
        (12.4, "12"),
        (12_345, "12,345"),
        (99_999, "99,999"),
        (123_456, "123k"),
        (999_960, "1M"),
        (1_234_567, "1.23M"),
        (5e15, "5000T"),
    ],
)
def test_a_number(value: float, text: str) -> None:
    assert number(value) == text


SIZES = [
    (0, "0 B"), (999, "999 B"), (1000, "1 kB"), (1500, "1.5 kB"), (250_000, "250 kB"), (999_700, "1 MB"), (2_000_000, "2 MB"),
    (3_000_000_000, "3 GB"), (12_345_678_901_234_567, "12346 TB"),
]  # fmt: skip
SPANS = [
    (0, "0 s"), (-3, "0 s"), (1e-9, "1 µs"), (0.00004, "40 µs"), (0.0009999, "1 ms"), (0.00123, "1.2 ms"), (0.0123, "12 ms"), (0.9994, "999 ms"),
    (0.9996, "1 s"), (3.21, "3.2 s"), (9.96, "10 s"), (90, "90 s"), (300, "5 min"), (8000, "2 h"), (200_000, "2 d"),
]  # fmt: skip


@pytest.mark.parametrize(("value", "text"), SIZES)
def test_a_size(value: int, text: str) -> None:
    assert size(value) == text


@pytest.mark.parametrize(("seconds", "text"), SPANS)
def test_a_span(seconds: float, text: str) -> None:
    assert span(seconds) == text


def test_an_unknown_value() -> None:
    assert {number(None), size(None), span(None), count(None), ago(None, 5.0)} == {UNKNOWN}
    assert ago(1.0, 301.0) == "5 min ago"


@given(st.floats(0, 1e14))
def test_numbers_fit_their_columns_and_have_no_exponent(value: float) -> None:
    texts = [number(value), number(int(value)), size(int(value)), span(min(value, 1e8))]
    assert all(len(text) <= 7 and "e" not in text for text in texts), texts
