"""States made from JSON, with the class as the schema, and states as plain values."""

from __future__ import annotations

import enum
import json
from collections import defaultdict, deque
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, ClassVar
from uuid import UUID

import attrs
import msgspec
import pydantic
import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.admin.state_json import plain_fields, plain_value, state_from_json
from celery_partitions.model.errors import StateError
from celery_partitions.model.state import StateClass


@dataclass
class Line:
    name: str = ""
    amount: int = 0


@dataclass
class Account:
    total: float = 0.0
    lines: list[Line] = field(default_factory=list)


class Struct(msgspec.Struct, omit_defaults=True, rename="camel"):
    total_price: float = 0.0
    lines: list[Line] = []


@attrs.define
class Attrs:
    total: float = 0.0
    lines: list[Line] = attrs.Factory(list)


class Model(pydantic.BaseModel):
    total: float = 0.0
    lines: list[Line] = []


class Colour(enum.Enum):
    RED = "red"


class Plain:
    total = 0.0
    count = 0
    tags: list[str] = []  # noqa: RUF012
    when: datetime | None = None
    colour = Colour.RED
    anything = None
    limit: ClassVar[int] = 5

    def __init__(self) -> None:
        self.made: set[int] = set()
        self.recent: deque[int] = deque()
        self.prices: defaultdict[str, float] = defaultdict(float)

    @property
    def twice(self) -> float:
        return self.total * 2


class Slots:
    __slots__ = ("total",)

    def __init__(self) -> None:
        self.total = 0.0


class Strict:
    total = 0.0

    def __setattr__(self, name: str, value: Any) -> None:
        if value < 0:
            raise ValueError("below zero")
        super().__setattr__(name, value)


def made(cls: type, given: object, base: Any = None) -> Any:
    return state_from_json(StateClass(cls), json.dumps(given), base)


@pytest.mark.parametrize("cls", [Account, Attrs, Model, Plain, Slots])
def test_each_kind_of_class_is_its_own_schema(cls: type) -> None:
    state = made(cls, {"total": 5})
    assert type(state) is cls
    assert (state.total, type(state.total)) == (5.0, float)


def test_nested_values_get_their_types() -> None:
    for cls in (Account, Attrs, Model):
        assert made(cls, {"lines": [{"name": "a", "amount": 2}]}).lines == [Line("a", 2)]


def test_a_plain_class_has_the_fields_of_a_new_object() -> None:
    state = made(
        Plain,
        {
            "count": 3,
            "tags": ["a"],
            "when": "2026-11-24T15:00:00",
            "made": [1, 1],
            "colour": "red",
            "anything": {"x": [1]},
            "recent": [1, 2],
            "prices": {"a": 1.5},
        },
    )
    assert (state.count, state.tags, state.when, state.made) == (3, ["a"], datetime(2026, 11, 24, 15), {1})
    assert (state.colour, state.anything) == (Colour.RED, {"x": [1]})
    assert (state.recent, type(state.recent)) == (deque([1, 2]), deque)
    state.prices["new"] += 1
    assert state.prices == {"a": 1.5, "new": 1.0}


def test_missing_fields_have_their_defaults_not_shared_between_keys() -> None:
    state = made(Plain, {"count": 3})
    assert (state.total, state.tags) == (0.0, [])
    assert state.tags is not Plain.tags
    assert made(Account, {"total": 1}).lines == []


@pytest.mark.parametrize("cls", [Account, Struct, Attrs, Model, Plain, Slots])
def test_with_a_base_missing_fields_keep_their_values_and_the_base_is_unchanged(cls: type) -> None:
    name = "totalPrice" if cls is Struct else "total"
    base = made(cls, {name: 7})
    before = plain_fields(base)
    assert plain_fields(made(cls, {}, base)) == before
    assert plain_fields(made(cls, {name: 8}, base)) != before
    assert plain_fields(base) == before


@pytest.mark.parametrize(
    ("cls", "given", "words"),
    [
        (Account, {"total": "x"}, ["$.total", "float"]),
        (Account, {"totl": 1}, ["$.totl", "total, lines"]),
        (Account, {"lines": [{}, {"name": "a", "amont": 1}]}, ["$.lines[1].amont", "name, amount"]),
        (Struct, {"total_price": 1}, ["$.total_price", "totalPrice"]),
        (Attrs, {"lines": [{"amount": "x"}]}, ["$.lines[0].amount"]),
        (Model, {"total": "x"}, ["total"]),
        (Model, {"totl": 1}, ["$.totl"]),
        (Plain, {"count": 1.5}, ["$.count", "int"]),
        (Plain, {"counts": 1}, ["counts"]),
        (Plain, {"limit": 1}, ["limit"]),
        (Plain, {"twice": 1}, ["twice"]),
        (Plain, {"tags": [1]}, ["$.tags[0]", "str"]),
        (Plain, {"colour": "blue"}, ["$.colour"]),
        (Slots, {"totl": 1}, ["totl"]),
        (Strict, {"total": -1}, ["below zero"]),
        (Account, [1], ["JSON object, not an array"]),
        (Account, None, ["JSON object, not null"]),
    ],
)
def test_a_wrong_field_or_type_is_refused_with_its_path(cls: type, given: object, words: list[str]) -> None:
    with pytest.raises(StateError) as refused:
        made(cls, given)
    assert [word for word in words if word not in str(refused.value)] == []


@pytest.mark.parametrize("text", ["", "{", "nonsense", b"\xff", "[" * 100_000])
def test_invalid_json_is_refused(text: str | bytes) -> None:
    with pytest.raises(StateError, match="not JSON"):
        state_from_json(StateClass(Account), text)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.sampled_from(["total", "lines", "name", "tags", "x", ""]), inner),
    max_leaves=8,
)


@given(cls=st.sampled_from([Account, Struct, Attrs, Model, Plain, Slots, Strict]), value=JSON, merge=st.booleans())
def test_any_json_becomes_a_state_of_the_class_or_is_refused(cls: type, value: object, merge: bool) -> None:
    try:
        state = made(cls, value, cls() if merge else None)
    except StateError:
        return
    assert type(state) is cls
    msgspec.json.encode(plain_value(state))


def test_fields_of_a_state_include_class_attributes_that_it_has_not_changed() -> None:
    fields = plain_fields(made(Plain, {"count": 3}))
    assert (fields["count"], fields["total"], fields["tags"]) == (3, 0.0, [])
    assert "twice" not in fields
    assert plain_fields(Slots()) == {"total": 0.0}


class Odd(enum.Enum):
    LONG = 10**5000


class Rude:
    __slots__ = ()

    def __repr__(self) -> str:
        raise RuntimeError("no")


class Own(int):
    def __str__(self) -> str:
        raise RuntimeError("no")


class OwnFloat(float):
    pass


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (10**5000, "(an int of 16,610 bits)"),
        ([-(10**5000)], ["(an int of 16,610 bits)"]),
        ({10**5000: 1}, {"(an int of 16,610 bits)": 1}),
        (Odd.LONG, "(an int of 16,610 bits)"),
        (2**70, 2**70),
        (Rude(), "(cannot be shown: RuntimeError)"),
        (Own(3), 3),
        (OwnFloat(0.5), 0.5),
    ],
    ids=["long", "inside", "name", "enum", "exact", "rude", "own int", "own float"],
)
def test_a_value_that_json_cannot_write_is_described(value: Any, shown: Any) -> None:
    assert plain_value(value) == shown
    msgspec.json.encode(plain_value(value), enc_hook=plain_value)
    assert type(plain_value(value)) in (int, float, str, list, dict)


def test_any_value_has_a_json_form() -> None:
    loop: list[Any] = []
    loop.append(loop)
    value = {1: Line("a", 2), "x\udcff": {3}, "loop": loop, "odd": object, "e": Colour.RED, "d": deque([1])}
    shown = plain_value(value)
    assert (shown["1"], shown["x\\udcff"], shown["e"], shown["d"]) == ({"name": "a", "amount": 2}, [3], "red", [1])
    assert "object" in shown["odd"]
    msgspec.json.encode(shown)


class Annotated:
    total: int
    other: Unknown  # type: ignore[name-defined]  # noqa: F821

    def __init__(self) -> None:
        self.entries: list[int] = []
        self.line: Line | None = None
        self.total = 0
        self.other = 0


class Derived(Annotated):
    extra: list[str] = []  # noqa: RUF012


@pytest.mark.parametrize("cls", [Annotated, Derived])
def test_annotations_in_init_and_beside_one_that_does_not_exist_are_the_schema(cls: type) -> None:
    with pytest.raises(StateError, match=r"Expected `int`, got `str` - at `\$\.entries\[0\]`"):
        made(cls, {"entries": ["a", 5]})
    with pytest.raises(StateError, match=r"Expected `int`.*\$\.total"):
        made(cls, {"total": "x"})
    assert made(cls, {"entries": [5], "line": {"name": "a"}}).line == Line("a")
    assert made(Plain, {"recent": [1]}).recent == deque([1])
    with pytest.raises(StateError, match=r"\$\.recent"):
        made(Plain, {"recent": ["a"]})
    with pytest.raises(StateError, match=r"\$\.prices"):
        made(Plain, {"prices": {"a": "b"}})


class Kind(enum.Enum):
    BIG = "big"
    SMALL = "small"


@dataclass
class Nested:
    at: datetime | None = None
    path: Path = Path("/tmp")


@dataclass
class Everything:
    """One field of each type that a state may hold and that JSON does not have."""

    at: datetime | None = None
    day: date = date(2026, 11, 30)
    clock: time = time(3, 0)
    took: timedelta = timedelta(0)
    price: Decimal = Decimal(0)
    id: UUID | None = None
    raw: bytes = b""
    kind: Kind = Kind.BIG
    path: Path = Path("/")
    seen: set[int] = field(default_factory=set)
    pair: tuple[int, str] = (0, "")
    nested: Nested = field(default_factory=Nested)
    days: dict[date, Decimal] = field(default_factory=dict)


class PlainEverything:
    """The same, where only defaults say the types."""

    def __init__(self) -> None:
        self.day, self.took, self.price, self.id = date(2026, 11, 30), timedelta(0), Decimal(0), UUID(int=7)
        self.raw, self.kind, self.path, self.seen = b"", Kind.BIG, Path("/"), {1}


FILLED: dict[str, Any] = {
    "at": datetime(2026, 11, 30, 3, 0, 0, 500_000, tzinfo=UTC),
    "day": date(2025, 1, 2),
    "clock": time(23, 59, 1),
    "took": timedelta(days=2, seconds=5),
    "price": Decimal("12.50"),
    "id": UUID("12345678123456781234567812345678"),
    "raw": bytes(range(256)),
    "kind": Kind.SMALL,
    "path": Path("/var/log/a b"),
    "seen": {3, 1, 2},
    "pair": (7, "seven"),
    "nested": Nested(datetime(2026, 1, 1), Path("x")),
    "days": {date(2025, 1, 2): Decimal("1.10")},
}


@pytest.mark.parametrize("name", FILLED)
def test_each_type_is_shown_as_a_person_writes_it_and_comes_back_the_same(name: str) -> None:
    state = Everything(**{name: FILLED[name]})
    shown = plain_value(plain_fields(state))
    assert state_from_json(StateClass(Everything), json.dumps(shown)) == state
    assert state_from_json(StateClass(Everything), "{}", base=state) == state, "an edit of another field keeps it"


def test_how_they_are_shown() -> None:
    shown = plain_value(plain_fields(Everything(**FILLED)))
    assert {name: shown[name] for name in ("at", "day", "clock", "took", "price", "kind", "path", "pair")} == {
        "at": "2026-11-30T03:00:00.500000Z", "day": "2025-01-02", "clock": "23:59:01", "took": "P2DT5S", "price": "12.50", "kind": "small",
        "path": "/var/log/a b", "pair": [7, "seven"],
    }  # fmt: skip
    assert shown["nested"] == {"at": "2026-01-01T00:00:00", "path": "x"}


def test_a_plain_class_takes_the_types_of_its_defaults() -> None:
    state = PlainEverything()
    for name in vars(state):
        setattr(state, name, FILLED[name])
    made = state_from_json(StateClass(PlainEverything), json.dumps(plain_value(plain_fields(state))))
    assert vars(made) == vars(state)
