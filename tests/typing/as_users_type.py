"""Code with types as users write it. mypy --strict must find nothing here, and each `assert_type` must be right."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TypedDict, assert_type

from celery_partitions import (
    Aggregation,
    Application,
    Context,
    OrderedComputation,
    Pipeline,
    RedisList,
    RedisStream,
    StateComputation,
    app,
    build_application,
    computation,
    computation_multi,
    install,
    key_extractor,
    partition_of,
    range_windows,
    seconds,
    source,
    state_computation,
)
from celery_partitions.testing import Harness, harness


@dataclass
class Stock:
    symbol: str
    price: float


class Order(TypedDict):
    customer: int
    amount: float


class StockPrice:
    price = 0.0


@key_extractor
def extract_symbol(stock: Stock) -> str:
    return stock.symbol


@key_extractor
def extract_customer(order: Order) -> int:
    return order["customer"]


@state_computation(name="update stock", state=StockPrice, key=extract_symbol)
def update_stock(stock: Stock, state: StockPrice) -> None:
    state.price = stock.price


@state_computation("count orders", state=Counter[int], key=extract_customer)
def count_orders(order: Order, state: Counter[int], context: Context) -> None:
    state[order["customer"]] += context.attempt


@state_computation("sum", state=dict, key=lambda message: message["key"])
def untyped(message, state):  # type: ignore[no-untyped-def]
    state["sum"] = state.get("sum", 0) + message["value"]


@computation("notify", key=extract_symbol)
def notify(stock: Stock, context: Context) -> None:
    print(context.key, context.sent_at)


@state_computation("index", state=StockPrice, key=extract_symbol, flush_every=100, flush_interval=0.5, ttl=60)
def index(stocks: list[Stock], state: StockPrice, context: Context) -> int:
    return len(context.message_ids)


@computation("index later", key=extract_symbol, flush_every=100)
async def index_later(stocks: list[Stock]) -> None: ...


index.delay(Stock("A", 1.0))
index.send_many([Stock("A", 1.0)])
index_later.delay(symbol="A", price=1.0)
assert_type(index.state("A"), StockPrice | None)
assert_type(extract_symbol(Stock("A", 1.0)), str)
assert_type(update_stock.state("A"), StockPrice | None)
assert_type(update_stock.states(["A", b"B", 7]), dict[str, StockPrice])
assert_type(update_stock.keys(), Iterator[str])
assert_type(update_stock.forget("A"), bool)
assert_type(update_stock.send_many(Stock("A", float(n)) for n in range(3)), int)
assert_type(update_stock.send_many([{"symbol": "A", "price": 1.0}], progress=True), int)
assert_type(count_orders.state(7), Counter[int] | None)
assert_type(partition_of("A", 4), int)

price = update_stock.state("A")
if price is not None:
    assert_type(price.price, float)
for symbol, each in update_stock.states(["A"]).items():
    print(symbol.lower(), each.price)

# A test calls a computation like a plain function.
update_stock(Stock("A", 1.0), StockPrice())
update_stock.delay(Stock("A", 1.0))
update_stock.delay({"symbol": "A", "price": 1.0})
update_stock.delay(stock={"symbol": "A", "price": 1.0})
update_stock.apply_async([Stock("A", 1.0)], countdown=5)
update_stock.apply_async((Stock("A", 1.0),))
notify.delay(Stock("A", 1.0), message_id="mine")
untyped.delay({"key": 1})
untyped.delay(5)
count_orders.delay({"customer": 1, "amount": 2.0})
several: list[Stock] = [Stock("A", 1.0)]
update_stock.send_many(several)


async def in_a_loop() -> None:
    await update_stock.adelay(Stock("A", 1.0))
    assert_type(await update_stock.asend_many(several), int)
    assert_type(await update_stock.astate("A"), StockPrice | None)


@state_computation("async", state=StockPrice, key=extract_symbol)
async def ask(stock: Stock, state: StockPrice, context: Context) -> None: ...


ask.delay(Stock("A", 1.0))



class Total(Aggregation):
    def initial_accumulator(self) -> list[float]:
        return []

    def update(self, message: Stock, accumulator: list[float]) -> None:
        accumulator.append(message.price)

    def output(self, key: str, accumulator: list[float]) -> tuple[str, float]:
        return key, sum(accumulator)


@computation_multi("halves")
def halves(stock: Stock) -> list[Stock | None]:
    return [Stock(stock.symbol, stock.price / 2), None]


@state_computation("last price", state=StockPrice)
def last_price(stock: Stock, state: StockPrice) -> Stock:
    state.price = stock.price
    return stock


prices = source("prices")
pipeline = prices.to(halves).key_by(extract_symbol).to(last_price)
assert_type(pipeline, Pipeline)
alerts = pipeline.to(range_windows(seconds(10)).over(Total)).to_sink(RedisStream("alerts", maxlen=1000))
both = build_application("both", alerts.merge(pipeline.to_sinks([RedisList("prices"), print])))
assert_type(both, Application)
assert_type(last_price.state("A"), StockPrice | None)
assert_type(prices.send_many([Stock("A", 1.0)]), int)
prices.delay(Stock("A", 1.0))

with harness(both, partitions=2, twice=True) as h, harness(alerts) as of_pipeline, harness(update_stock) as of_computation:
    assert_type(h, Harness)
    assert_type(h.send(Stock("A", 1.0)), str)
    of_pipeline.crash(at="before the commit")
    of_computation.advance(hours=1)

stateful: StateComputation[[Stock, StockPrice], None, StockPrice] = update_stock
ordered: OrderedComputation[[Stock, Context], None] = notify
install(app)
