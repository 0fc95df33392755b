"""An application whose workers write their spans to the file SPANS_FILE: a pipeline of two hops, a failure, and a result with a follow-up."""

from __future__ import annotations

import os
from dataclasses import dataclass

from opentelemetry import trace

from celery_partitions import (
    RedisList,
    RetryPolicy,
    TaskSink,
    app,
    build_application,
    key_extractor,
    source,
    state_computation,
)
from tests.tracing.exporter import FileExporter, provider_to

__all__ = ["Bill", "Order", "app", "billed", "refuse", "sales"]

if "SPANS_FILE" in os.environ:
    trace.set_tracer_provider(provider_to(FileExporter(os.environ["SPANS_FILE"])))


@dataclass
class Order:
    customer: str
    item: str


class Count:
    n = 0


@key_extractor
def customer_of(order: Order) -> str:
    return order.customer


@key_extractor
def item_of(order: Order) -> str:
    return order.item


@state_computation("traced check", state=Count)
def check(order: Order, count: Count) -> Order:
    count.n += 1
    with trace.get_tracer("the user's own").start_as_current_span("look into it"):
        return order


@state_computation("traced tally", state=Count)
def tally(order: Order, count: Count) -> str:
    count.n += 1
    return order.item


sales = source("traced sales")
checked = sales.key_by(customer_of).to(check).key_by(item_of).to(tally)
build_application(
    "traced", checked.to_sink(RedisList("traced out")).merge(checked.to_sink(TaskSink("traced plain task", queue="elsewhere")))
)


@dataclass
class Bill:
    customer: str
    amount: int


@key_extractor
def payer(bill: Bill) -> str:
    return bill.customer


@state_computation("traced refuse", state=Count, key=payer, on_error=RetryPolicy(1, 0.1, exhausted="dead_letter"))
def refuse(bill: Bill, count: Count) -> None:
    raise ValueError(f"{bill.amount} is refused")


@state_computation("traced bill", state=Count, key=payer, reply=True)
def billed(bill: Bill, count: Count) -> dict[str, object]:
    count.n += bill.amount
    return {"customer": bill.customer, "amount": count.n}
