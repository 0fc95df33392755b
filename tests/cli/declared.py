"""The computations of the tests' app."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from celery_partitions import computation, key_extractor, state_computation


@dataclass
class Price:
    symbol: str
    price: float
    volume: int | None = None


class Last:
    price = 0.0


@key_extractor
def symbol_of(price: Price) -> str:
    if not price.symbol:
        raise ValueError("a price of nothing")
    return price.symbol


@state_computation("tests.cli: update", state=Last, key=symbol_of)
def update(price: Price, state: Last) -> None:
    state.price = price.price


@computation("tests.cli: limited", key=symbol_of, rate_limit="100/m")
def limited(price: Price) -> None:
    """A computation with a rate limit."""


@computation("tests.cli: note", key=lambda message: message["key"])
def note(message: dict[str, Any]) -> None:
    """A computation without a type and without state."""
