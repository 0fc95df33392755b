"""State objects: separate for each key and complete. Classes that cannot work are refused when they are declared."""

from __future__ import annotations

import abc
import collections
import enum
import logging
import pickle
import threading
from collections import UserDict
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

import attrs
import msgspec
import pydantic
import pytest

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.state import StateClass


class Stocks:
    stocks: dict[str, float] = {}  # noqa: RUF012
    price = 0.0


class MoreStocks(Stocks):
    names: list[str] = []  # noqa: RUF012


class NoStocks(Stocks):
    stocks = None  # type: ignore[assignment]


class Nested:
    pairs: tuple[list[int], ...] = ([],)
    limits = (1, 2)


@dataclass
class WithFactory:
    prices: list[float] = field(default_factory=list)
    price: float = 0.0


@dataclass(slots=True)
class Slotted:
    prices: list[float] = field(default_factory=list)


@attrs.define
class Attrs:
    prices: list[float] = attrs.Factory(list)


class Struct(msgspec.Struct):
    prices: list[float] = []


class Model(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="allow")
    prices: list[float] = []


class Abstract(abc.ABC):  # noqa: B024
    prices: list[float] = []  # noqa: RUF012


class Mapped(UserDict[str, float]):
    pass


class Status(enum.Enum):
    NEW = 1


class Constants:
    partition: ClassVar[str] = "EUR"
    status = Status.NEW
    logger = logging.getLogger(__name__)
    lock: ClassVar[Any] = threading.Lock()

    @property
    def doubled(self) -> int:
        return 2

    class Inner:
        pass


@pytest.mark.parametrize("cls", [Stocks, MoreStocks])
def test_a_mutable_class_attribute_is_each_keys_own(cls: type[Stocks]) -> None:
    made = StateClass(cls)
    one, other = made.new(), made.new()
    one.stocks["A"] = 1.0
    assert other.stocks == {} and cls.stocks == {}
    assert pickle.loads(pickle.dumps(one)).stocks == {"A": 1.0}


def test_inherited_and_own_class_attributes_are_both_copied() -> None:
    one = StateClass(MoreStocks).new()
    assert one.stocks is not Stocks.stocks and one.names is not MoreStocks.names


def test_what_a_subclass_overrides_is_not_restored() -> None:
    assert StateClass(NoStocks).new().stocks is None


def test_a_tuple_that_contains_a_list_is_copied_and_one_of_numbers_is_not() -> None:
    one, other = StateClass(Nested).new(), StateClass(Nested).new()
    one.pairs[0].append(1)
    assert other.pairs == ([],)
    assert "limits" not in vars(one)


@pytest.mark.parametrize("cls", [WithFactory, Slotted, Attrs, Struct, Model, Abstract])
def test_every_usual_kind_of_class_makes_separate_states(cls: Any) -> None:
    made = StateClass(cls)
    one, other = made.new(), made.new()
    one.prices.append(1.0)
    assert other.prices == [] and made.new().prices == []
    assert pickle.loads(pickle.dumps(one)).prices == [1.0]


def test_a_pydantic_state_contains_its_fields_and_nothing_of_its_class() -> None:
    assert StateClass(Model).new().model_dump() == {"prices": []}


def test_a_library_base_class_keeps_working() -> None:
    state = StateClass(Mapped).new()
    with pytest.raises(KeyError):
        state.pop("missing")


@pytest.mark.parametrize(
    "cls", [dict, list, set, collections.Counter, collections.deque, collections.OrderedDict, bytearray]
)
def test_a_builtin_container_is_a_state_class(cls: type) -> None:
    made = StateClass(cls)
    assert made.new() == cls() and made.new() is not made.new()
    assert not made.completes


def test_constants_methods_properties_and_inner_classes_are_not_state() -> None:
    assert vars(StateClass(Constants).new()) == {}


def test_an_older_state_gets_its_own_copy_of_a_new_attribute() -> None:
    old = pickle.loads(pickle.dumps(object.__new__(Stocks)))
    made = StateClass(Stocks)
    completed = made.complete(old)
    assert completed is old and "stocks" in vars(old) and old.stocks is not Stocks.stocks
    old.stocks["A"] = 1.0
    assert made.complete(old).stocks == {"A": 1.0}


class NeedsArgument:
    def __init__(self, symbol: str) -> None: ...


class HoldsLock:
    def __init__(self) -> None:
        self.lock = threading.Lock()


class LockOfAll:
    lock = threading.Lock()


class SharedOfAll:
    totals: ClassVar[dict[str, int]] = {}


class SlotsAndList:
    __slots__ = ()
    prices: list[float] = []  # noqa: RUF012


class Imposter:
    def __new__(cls) -> Any:
        return {}


class Unpickles:
    def __reduce__(self) -> tuple[Any, ...]:
        return (dict, ())


class Protocolled(Protocol):
    price = 0.0


@pytest.mark.parametrize(
    ("cls", "says"),
    [
        (NeedsArgument, "can't be created without arguments"),
        (HoldsLock, "can't be pickled"),
        (LockOfAll, "class attribute lock"),
        (SharedOfAll, "totals is a ClassVar dict"),
        (SlotsAndList, "__slots__.*prices"),
        (Imposter, "another class, dict"),
        (Unpickles, "is unpickled as another class"),
        (Protocolled, "can't be created without arguments"),
        (int, "immutable"),
        (str, "immutable"),
        (tuple, "immutable"),
        (type(None), "immutable"),
        (dict[str, int], "must be a class"),
        ({}, "must be a class"),
    ],
)
def test_a_state_class_that_cannot_work_is_refused_with_the_reason(cls: Any, says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        StateClass(cls)


def test_a_class_defined_in_a_function_is_refused_because_no_worker_could_unpickle_it() -> None:
    class Local:
        price = 0.0

    with pytest.raises(DeclarationError, match="top level"):
        StateClass(Local)
