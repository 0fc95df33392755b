"""Mistakes that a type checker must find. Each is ignored by its error code, and an unused ignore is an error."""

from __future__ import annotations

from dataclasses import dataclass

from celery_partitions import (
    Context,
    build_application,
    computation,
    key_extractor,
    partition_of,
    source,
    state_computation,
)
from celery_partitions.testing import harness


@dataclass
class Stock:
    symbol: str
    price: float


class StockPrice:
    price = 0.0


@key_extractor
def extract_symbol(stock: Stock) -> str:
    return stock.symbol


@state_computation("update stock", state=StockPrice, key=extract_symbol)
def update_stock(stock: Stock, state: StockPrice) -> None:
    state.price = stock.cost  # type: ignore[attr-defined]
    state.prise = stock.price  # type: ignore[attr-defined]
    state.price = stock.symbol  # type: ignore[assignment]


@computation("notify", key=extract_symbol)
def notify(stock: Stock, context: Context) -> None:
    context.attempt = 2  # type: ignore[misc]
    delayed: float = context.sent_at  # type: ignore[assignment]
    print(delayed)


@state_computation("another state", state=Stock, key=extract_symbol)  # type: ignore[arg-type]
def another_state(stock: Stock, state: StockPrice) -> None: ...


@state_computation("index", state=StockPrice, key=extract_symbol, flush_every=10)  # type: ignore[arg-type]
def no_list(stock: Stock, state: StockPrice) -> None: ...


@computation("index stocks", key=extract_symbol, flush_every=10)
def index(stocks: list[Stock]) -> None: ...


index.delay([Stock("A", 1.0)])  # type: ignore[call-overload]
index(Stock("A", 1.0))  # type: ignore[arg-type]


async def in_a_loop() -> None:
    await update_stock.adelay("A")  # type: ignore[call-overload]
    await update_stock.asend_many(["A"])  # type: ignore[list-item]


print(update_stock.state("A").price)  # type: ignore[union-attr]
print(update_stock.state("A").prise)  # type: ignore[union-attr]
print(update_stock.states(["A"])["A"].prise)  # type: ignore[attr-defined]
print(update_stock.states("A").price)  # type: ignore[attr-defined]
update_stock(Stock("A", 1.0))  # type: ignore[call-arg]
update_stock("A", StockPrice())  # type: ignore[arg-type]
update_stock.send_many(Stock("A", 1.0))  # type: ignore[arg-type]
notify.state("A")  # type: ignore[attr-defined]
extract_symbol("A")  # type: ignore[arg-type]
partition_of("A")  # type: ignore[call-arg]
state_computation("no state", key=extract_symbol)  # type: ignore[call-overload]
source("prices", "127.0.0.1:7010")  # type: ignore[arg-type]
source("prices").key_by("symbol")  # type: ignore[arg-type]
source("prices").merge([source("quotes")])  # type: ignore[arg-type]
build_application("no pipeline", source)  # type: ignore[arg-type]
state_computation("no class", state=StockPrice(), key=extract_symbol)  # type: ignore[call-overload]
state_computation("no function", state=StockPrice, key="symbol")  # type: ignore[call-overload]
computation("with state", state=StockPrice, key=extract_symbol)  # type: ignore[call-overload]
update_stock.delay(5)  # type: ignore[call-overload]
update_stock.apply_async([5])  # type: ignore[list-item]
update_stock.send_many([1])  # type: ignore[list-item]
notify.send_many(5 for _ in range(3))  # type: ignore[misc]
harness("no pipeline")  # type: ignore[arg-type]
harness(update_stock).crash(at="lunch")  # type: ignore[arg-type]
