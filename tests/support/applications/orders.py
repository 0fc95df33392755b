"""A pipeline that fails on demand: a stage fails while the Redis key with its name is set. It ends in windows that a timer closes.

    orders in ─ key_by customer ─ check ─ key_by item ─ tally ─┬─ stream "tallied"
                                                              └─ totals (windows of two seconds) ─ list "totals"
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import redis

from celery_partitions import (
    Aggregation,
    RedisList,
    RedisStream,
    RetryPolicy,
    app,
    build_application,
    key_extractor,
    range_windows,
    seconds,
    source,
    state_computation,
)

__all__ = ["app", "application", "orders"]

AT_ONCE = RetryPolicy(0, exhausted="dead_letter")


@dataclass
class Order:
    customer: str
    item: str
    amount: int


class Tally:
    amount = 0


def fail_if_marked(stage: str) -> None:
    with redis.Redis.from_url(os.environ["REDIS_URL"]) as client:
        if client.exists(f"trouble at {stage}"):
            raise ValueError(f"{stage} fails on purpose")


@key_extractor
def customer(order: Order) -> str:
    return order.customer


@key_extractor
def item(order: Order) -> str:
    return order.item


@state_computation("check", state=Tally, on_error=AT_ONCE)
def check(order: Order, state: Tally) -> Order:
    fail_if_marked("check")
    state.amount += order.amount
    return order


@state_computation("tally", state=Tally, on_error=AT_ONCE)
def tally(order: Order, state: Tally) -> list[object]:
    fail_if_marked("tally")
    state.amount += order.amount
    return [order.item, state.amount]


class Totals(Aggregation):
    def name(self) -> str:
        return "totals"

    def initial_accumulator(self) -> list[object]:
        return []

    def update(self, message: object, accumulator: list[object]) -> None:
        accumulator.append(message)

    def combine(self, one: list[object], other: list[object]) -> list[object]:
        return one + other

    def output(self, key: str, accumulator: list[object]) -> list[object]:
        return [key, accumulator]


orders = source("orders in", deduplicate=600)
tallied = orders.key_by(customer).to(check).key_by(item).to(tally)
application = build_application(
    "orders",
    tallied.to_sink(RedisStream("tallied")).merge(tallied.to(range_windows(seconds(2)).over(Totals)).to_sink(RedisList("totals"))),
)
