"""Pipelines that the tests' workers run: word count, market spread, and a sequence window through one to three hops."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions import (
    Aggregation,
    RedisList,
    RedisStream,
    app,
    build_application,
    computation,
    computation_multi,
    key_extractor,
    range_windows,
    seconds,
    source,
    state_computation,
)

__all__ = [
    "Number",
    "Order",
    "Quote",
    "Reading",
    "app",
    "count",
    "lines",
    "market_data",
    "numbers_in",
    "orders",
    "readings",
    "spread",
    "windows",
    "words",
]

# Word count: a line becomes words, each word is counted in its own state.


class Count:
    n = 0


@computation_multi("split")
def split(line: str) -> list[str | None]:
    return [word or None for word in line.split(" ")]


@key_extractor
def itself(word: str) -> str:
    return word


@state_computation("count", state=Count)
def count(word: str, state: Count) -> tuple[str, int]:
    state.n += 1
    return word, state.n


@computation("word total")
def word_total(counted: tuple[str, int]) -> list[object]:
    return list(counted)


lines = source("lines")
words = build_application("words", lines.to(split).key_by(itself).to(count).to(word_total).to_sink(RedisList("counted")))

# Market spread: two sources, one state for each symbol; an order is rejected while the spread is wide.


@dataclass
class Quote:
    symbol: str
    bid: float
    offer: float


@dataclass
class Order:
    symbol: str
    number: int


class Market:
    is_wide = False


@key_extractor
def symbol_of(message: Quote | Order) -> str:
    return message.symbol


@state_computation("spread", state=Market)
def spread(message: Quote | Order, market: Market) -> list[object] | None:
    if isinstance(message, Quote):
        middle = (message.bid + message.offer) / 2
        market.is_wide = message.offer - message.bid > 0.05 * middle
        return None
    return [message.symbol, message.number] if market.is_wide else None


orders, market_data = source("orders", type=Order), source("market data", type=Quote)
build_application(
    "market spread",
    orders.key_by(symbol_of).merge(market_data.key_by(symbol_of)).to(spread).to_sink(RedisStream("alerts", maxlen=100_000)),
)

# The sequence window: the last four numbers of each key, through three hops; each hop regroups the keys.


@dataclass
class Number:
    key: str
    number: int


class Window:
    last = (0, 0, 0, 0)


@dataclass
class Seen:
    """What a stage saw: the last four numbers of a key, the newest last."""

    key: str
    last: list[int]


def slide(key: str, number: int, window: Window) -> Seen:
    window.last = (*window.last[1:], number)
    return Seen(key, list(window.last))


@state_computation("first window", state=Window)
def first_window(message: Number, window: Window) -> Seen:
    return slide(message.key, message.number, window)


@state_computation("next window", state=Window)
def next_window(message: Seen, window: Window) -> Seen:
    return slide(message.key, message.last[-1], window)


@key_extractor
def key_of_number(message: Number) -> str:
    return message.key


@key_extractor
def deduplication_key(message: Seen) -> str:
    return message.key


@key_extractor
def key_turned(message: Seen) -> str:
    return f"turned {message.key}"


numbers_in = source("numbers")
first = numbers_in.key_by(key_of_number).to(first_window)
second = first.key_by(key_turned).to(next_window)
third = second.key_by(deduplication_key).to(next_window)
windows = build_application(
    "windows",
    first.to_sink(RedisList("one hop")).merge(second.to_sink(RedisList("two hops"))).merge(third.to_sink(RedisList("three hops"))),
)

# Alerts: a device's readings in windows of one second of event time. A window whose total is above 100 makes an alert.


@dataclass
class Reading:
    device: str
    at: float
    value: int


class Total(Aggregation):
    def initial_accumulator(self) -> list[int]:
        return []

    def update(self, message: Reading, accumulator: list[int]) -> None:
        accumulator.append(message.value)

    def output(self, key: str, accumulator: list[int]) -> tuple[str, int]:
        return key, sum(accumulator)


@key_extractor
def device_of(reading: Reading) -> str:
    return reading.device


@computation("alert")
def alert(total: tuple[str, int]) -> list[object] | None:
    return list(total) if total[1] > 100 else None


readings = source("readings", event_time=lambda reading: reading.at)
build_application(
    "alerts",
    readings.key_by(device_of).to(range_windows(seconds(1)).over(Total)).to(alert).to_sink(RedisList("high")),
)
