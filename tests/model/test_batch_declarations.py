"""What a batch computation's declaration may say, and what the error says otherwise."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest

from celery_partitions import Context, DeclarationError
from celery_partitions.model.declaration import declare
from celery_partitions.model.flushing import Flush


@dataclass
class Order:
    customer: str


class Index:
    count = 0


def customer_of(order: Order) -> str:
    return order.customer


def index(orders: list[Order], state: Index) -> None: ...


async def index_later(orders: list[Order], state: Index, context: Context) -> None: ...


def index_any(orders: list, state: Index) -> None: ...  # type: ignore[type-arg]


def index_one(order: Order, state: Index) -> None: ...


def unannotated(orders, state): ...  # type: ignore[no-untyped-def]


def declared(function: Any = index, **options: Any) -> Any:
    return declare(function, **{"name": "index", "state": Index, "key": customer_of, "flush_every": 10, **options})


@pytest.mark.parametrize(
    ("options", "flush"),
    [
        ({}, Flush(10, 1.0)),
        ({"flush_interval": 0.5, "flush_every": 1}, Flush(1, 0.5)),
        ({"flush_interval": timedelta(minutes=1)}, Flush(10, 60.0)),
        ({"flush_every": None}, None),
    ],
)
def test_when_it_is_called(options: dict[str, Any], flush: Flush | None) -> None:
    assert declared(index if flush else index_one, **options).flush == flush


@pytest.mark.parametrize(("function", "annotation"), [(index, Order), (index_later, Order), (index_any, Any)])
def test_senders_send_one_message(function: Any, annotation: Any) -> None:
    computation = declared(function)
    assert computation.codec.annotation == annotation
    assert not computation.plain_call
    assert computation.codec.encode({"customer": "ada"})[1] == (Order("ada") if annotation is Order else {"customer": "ada"})


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (index, {"flush_every": 0}, "flush_every must be an integer from 1 to 10,000"),
        (index, {"flush_every": 10_001}, "flush_every must be an integer from 1 to 10,000"),
        (index, {"flush_every": "10"}, "flush_every must be an integer from 1 to 10,000"),
        (index, {"flush_every": True}, "flush_every must be an integer from 1 to 10,000"),
        (index, {"flush_interval": 0}, "flush_interval must be a timedelta or a number of seconds, above zero"),
        (index, {"flush_interval": timedelta(-1)}, "flush_interval must be a timedelta or a number of seconds, above zero"),
        (index, {"flush_interval": "1s"}, "flush_interval must be a timedelta or a number of seconds, above zero"),
        (index_one, {"flush_every": None, "flush_interval": 1}, "flush_interval= needs a flush_every="),
        (index_one, {}, "annotate it as a list of them, for example order: list[Order]"),
        (unannotated, {}, "annotate it as a list of them"),
        (index, {"flush_every": None}, "give it several messages at once, with flush_every="),
        (index, {"key": None}, "flush_every= needs a key="),
        (index, {"holds": "computation"}, 'holds="computation" can\'t be combined with flush_every='),
        (index, {"rate_limit": "1/s", "rate_limit_key": customer_of}, "rate_limit_key= can't be combined with flush_every="),
    ],
)
def test_a_mistake_is_explained(function: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError) as raised:
        declared(function, **options)
    assert says in str(raised.value)
