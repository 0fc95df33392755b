"""The work of every candidate: fold the trades of each symbol into a moving average of its price.

The average depends on every trade and on their order, so equal results mean that nothing was lost, applied twice or
reordered.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass

#: The weight of a new price. Small enough that a trade still affects the average after a few hundred more.
WEIGHT = 1 / 16


@dataclass(slots=True)
class Trade:
    """One message: a symbol was traded at a price."""

    symbol: str
    price: float


class Average:
    """The state of one symbol: one float."""

    price = 0.0


def averaged(average: float, price: float) -> float:
    """The moving average after one more price."""
    return average + (price - average) * WEIGHT


def trades(count: int, keys: int) -> Iterator[Trade]:
    """`count` trades of `keys` symbols in random order, the same on every call."""
    chosen = random.Random(7)
    symbols = [f"S{number}" for number in range(keys)]
    for _ in range(count):
        yield Trade(chosen.choice(symbols), chosen.randrange(1000, 100_000) / 100)


def one_trade_a_symbol(keys: int) -> Iterator[Trade]:
    """One trade for each of `keys` symbols, to fill the state."""
    for number in range(keys):
        yield Trade(f"S{number}", 100.0)


def folded(count: int, keys: int, *, after_one_each: bool = False) -> dict[str, float]:
    """The result that every candidate must reach: symbol -> average. `after_one_each`: after `one_trade_a_symbol`."""
    averages: dict[str, float] = {}
    if after_one_each:
        averages = {trade.symbol: averaged(0.0, trade.price) for trade in one_trade_a_symbol(keys)}
    for trade in trades(count, keys):
        averages[trade.symbol] = averaged(averages.get(trade.symbol, 0.0), trade.price)
    return averages
