"""The accounts, and a pipeline with two sources, hops, stages in one step and several sinks, for the dashboard to draw."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions import (
    CallableSink,
    RedisList,
    StreamSource,
    build_application,
    computation,
    key_extractor,
    source,
    state_computation,
)
from tests.support.applications.accounts import app, deliver, pay

__all__ = ["app", "deliver", "orders", "pay"]


@dataclass
class Order:
    customer: str
    product: str
    many: int = 1


class Total:
    many = 0


@key_extractor
def customer_of(order: Order) -> str:
    return order.customer


@key_extractor
def product_of(order: Order) -> str:
    return order.product


@state_computation("orders of a customer", state=Total)
def of_customer(order: Order, total: Total) -> Order:
    total.many += order.many
    return order


@computation("check <the> order")
def checked(order: Order) -> Order | None:
    return order if order.many < 100 else None


@state_computation("sales of a product", state=Total)
def of_product(order: Order, total: Total) -> list[object]:
    total.many += order.many
    return [order.product, total.many]


orders, stored = source("orders of the shop", type=Order), source("stored orders", StreamSource("stored orders"), type=Order)
_sold = orders.merge(stored).key_by(customer_of).to(of_customer).to(checked)
_totals = _sold.key_by(product_of).to(of_product)
build_application(
    "shop",
    _totals.to_sinks([RedisList("sales"), CallableSink(print, name="warehouse")]).merge(_sold.to_sink(RedisList("checked orders"))),
)
