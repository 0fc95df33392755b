"""Real daily closing prices of five stocks, 2000 to 2013, ordered by time (12,154 rows, from bokeh-sampledata).

They come from Quandl's WIKI Prices, which are in the public domain.
"""

from __future__ import annotations

import heapq
import importlib
from collections.abc import Iterator

from celery_partitions.demo.processes import DemoError
from celery_partitions.demo.stocks import Stock

SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def daily_prices() -> Iterator[Stock]:
    """Each day's closing prices, oldest first. Raises `DemoError` if the package is not installed."""
    try:
        stocks = importlib.import_module("bokeh_sampledata.stocks")
    except ImportError:
        raise DemoError("the package with the prices is not installed: pip install --no-deps bokeh-sampledata") from None

    def of(symbol: str) -> Iterator[tuple[str, str, float]]:
        days = getattr(stocks, symbol)
        for date, price in zip(days["date"], days["close"], strict=True):
            yield date, symbol, price

    for _date, symbol, price in heapq.merge(*map(of, SYMBOLS)):
        yield Stock(symbol, price)
