"""The demo's prices: thousands of real prices, ordered by time."""

from __future__ import annotations

import sys
from collections import Counter

import pytest

from celery_partitions.demo.prices import SYMBOLS, daily_prices
from celery_partitions.demo.processes import DemoError


def test_all_days_of_all_stocks_are_there() -> None:
    counts = Counter(stock.symbol for stock in daily_prices())
    assert counts.keys() == set(SYMBOLS)
    assert counts.total() > 10_000


def test_days_are_in_order_across_all_stocks() -> None:
    """Facebook was not listed before 2012. Its prices start late, and are mixed with the others'."""
    symbols = [stock.symbol for stock in daily_prices()]
    assert symbols.index("FB") > len(symbols) * 3 // 4
    assert set(symbols[-5:]) == set(SYMBOLS)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh_sampledata.stocks", None)
    with pytest.raises(DemoError, match="pip install --no-deps bokeh-sampledata"):
        list(daily_prices())
