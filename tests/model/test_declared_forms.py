"""Functions in every form that users declare: what is read from them, and what is refused with what to do."""

from __future__ import annotations

import functools
import operator
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypedDict

import pytest

from celery_partitions import DeclarationError, key_extractor
from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare, name_of_function

if TYPE_CHECKING:
    from celery_partitions import Context
    from tests.nowhere import Missing  # type: ignore[import-not-found]


@dataclass
class Order:
    who: str


@dataclass
class Paid(Order):
    cents: int = 0


@dataclass
class Other:
    who: str


class HasWho(Protocol):
    who: str


class Fields(TypedDict):
    who: str


class State:
    total = 0


class Special(State): ...


@key_extractor
def who(order: Order) -> str:
    return order.who


def plain(order: Paid, state: State) -> None: ...


def typed_for_checkers(order: Paid, state: State, context: Context) -> None: ...


def unknown_state(order: Paid, state: Missing) -> None: ...


def with_option(order: Paid, state: State, dry: bool = False) -> None: ...


def with_default_context(order: Paid, state: State, context: Any = None) -> None: ...


def after_one(first: int, order: Paid, state: State) -> None: ...


@functools.wraps(plain)
def wrapper(*args: Any, **kwargs: Any) -> None: ...


class Shop:
    @staticmethod
    def sell(order: Paid, state: State) -> None: ...

    def method(self, order: Paid, state: State) -> None: ...

    def __call__(self, order: Paid, state: State) -> None: ...


def made(function: Callable[..., Any], state: Any = State, key: Callable[[Any], Any] = who) -> Computation:
    return declare(function, name="tests.forms", state=state, key=key)


@pytest.mark.parametrize(("function", "name", "takes_context"), [
    (plain, "plain", False),
    (typed_for_checkers, "typed_for_checkers", True),
    (unknown_state, "unknown_state", False),
    (with_option, "with_option", False),
    (with_default_context, "with_default_context", True),
    (functools.partial(after_one, 1), "after_one", False),
    (wrapper, "plain", False),
    (vars(Shop)["sell"], "sell", False),
    (Shop().method, "method", False),
    (Shop(), "Shop", False),
])  # fmt: skip
def test_the_message_class_and_the_parameters_are_found(function: Callable[..., Any], name: str, takes_context: bool) -> None:
    found = made(function)
    assert found.codec.annotation is Paid
    assert (name_of_function(function), found.takes_context) == (name, takes_context)
    found.function(Paid("a"), State(), *([None] if takes_context else []))


@pytest.mark.parametrize(("state", "key"), [
    (Special, who),
    (State, lambda order: order.who),
    (State, operator.attrgetter("who")),
    (State, functools.lru_cache(lambda order: order.who)),
])  # fmt: skip
def test_matching_types_are_accepted(state: type, key: Callable[[Any], Any]) -> None:
    assert made(plain, state, key).state is not None


def test_types_that_cannot_be_compared_are_accepted() -> None:
    def by_protocol(order: HasWho) -> str:
        return order.who

    def by_fields(order: Fields) -> str:
        return order["who"]

    def of_fields(order: Fields, state: dict[str, int]) -> None: ...

    def of_number(number: int, state: Counter[str]) -> None: ...

    def by_number(number: float) -> int:
        return int(number)

    def of_any(order: Any, state: Any) -> None: ...

    made(of_any)
    made(plain, State, by_protocol)
    made(of_fields, dict, by_fields)
    made(of_fields, dict, lambda order: order["who"])
    made(of_number, Counter, by_number)


def by_other(order: Other) -> str:
    return order.who


@pytest.mark.parametrize(("function", "state", "key", "says"), [
    (plain, Other, who, r"state=Other, but state of plain is annotated as State\. Make them the same"),
    (plain, State, by_other, r"its messages are Paid, but the key extractor by_other takes Other\. Use a key extractor for Paid"),
    (vars(Shop)["method"], State, who, r"is a method, and is called without a `self`\. Declare a function, or put @staticmethod below"),
    (functools.lru_cache(plain), State, who, r"is cached: an equal message would not be applied again\. Remove lru_cache"),
])  # fmt: skip
def test_types_that_do_not_match_are_refused_with_what_to_do(function: Any, state: type, key: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        made(function, state, key)
