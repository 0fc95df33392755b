"""The example application of the README: the last price of each stock. `celery -A celery_partitions.demo.stocks worker` runs it."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation

__all__ = ["Stock", "StockPrice", "app", "extract_symbol", "update_stock"]


@dataclass
class Stock:
    symbol: str
    price: float


class StockPrice:  # one object per key; made with no arguments; class attributes are the zero state
    price = 0.0


@key_extractor
def extract_symbol(stock: Stock) -> str:
    return stock.symbol


@state_computation(name="update stock", state=StockPrice, key=extract_symbol)
def update_stock(stock: Stock, state: StockPrice) -> None:
    state.price = stock.price
