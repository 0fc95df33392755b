"""A field is added to a state class: states stored before get its default, and keep their other fields."""

from __future__ import annotations

import linecache
import sys
import types
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError
from celery_partitions.store.codec import StateCodec

MODULE = "tests.model.state_of_two_versions"

#: Each class before and after the change. A new first field is the hardest case.
VERSIONS = {
    "set in __init__": (
        "class State:\n    def __init__(self): self.price = 1.0\n",
        "class State:\n    def __init__(self): self.names, self.price = [], 1.0\n",
    ),
    "class attribute": ("class State:\n    price = 1.0\n", "class State:\n    names = []\n    price = 1.0\n"),
    "dataclass": (
        "@dataclass\nclass State:\n    price: float = 1.0\n",
        "@dataclass\nclass State:\n    names: list = field(default_factory=list)\n    price: float = 1.0\n",
    ),
    "dataclass with slots": (
        "@dataclass(slots=True)\nclass State:\n    price: float = 1.0\n",
        "@dataclass(slots=True)\nclass State:\n    names: list = field(default_factory=list)\n    price: float = 1.0\n",
    ),
    "slots": (
        "class State:\n    __slots__ = ('price',)\n    def __init__(self): self.price = 1.0\n",
        "class State:\n    __slots__ = ('names', 'price')\n    def __init__(self): self.names, self.price = [], 1.0\n",
    ),
    "attrs": (
        "@attrs.define\nclass State:\n    price: float = 1.0\n",
        "@attrs.define\nclass State:\n    names: list = attrs.field(factory=list)\n    price: float = 1.0\n",
    ),
    "pydantic": (
        "class State(pydantic.BaseModel):\n    price: float = 1.0\n",
        "class State(pydantic.BaseModel):\n    names: list = []\n    price: float = 1.0\n",
    ),
    "private attribute of pydantic": (
        "class State(pydantic.BaseModel):\n    price: float = 1.0\n",
        "class State(pydantic.BaseModel):\n    price: float = 1.0\n    _names: list = pydantic.PrivateAttr(default_factory=list)\n"
        "    @property\n    def names(self): return self._names\n",
    ),
    "pydantic's dataclass": (
        "@pydantic.dataclasses.dataclass\nclass State:\n    price: float = 1.0\n",
        "@pydantic.dataclasses.dataclass\nclass State:\n    names: list = field(default_factory=list)\n    price: float = 1.0\n",
    ),
    "msgspec": (
        "class State(msgspec.Struct):\n    price: float = 1.0\n",
        "class State(msgspec.Struct):\n    names: list = []\n    price: float = 1.0\n",
    ),
}


@pytest.fixture
def module() -> Iterator[types.ModuleType]:
    made = sys.modules[MODULE] = types.ModuleType(MODULE)
    yield made
    del sys.modules[MODULE]


def computation(module: types.ModuleType, source: str) -> Any:
    source = "import attrs, msgspec, pydantic, pydantic.dataclasses\nfrom dataclasses import dataclass, field\n" + source
    linecache.cache[MODULE] = len(source), None, source.splitlines(keepends=True), MODULE
    exec(compile(source, MODULE, "exec"), module.__dict__)
    return declare(lambda message, state: None, name="count", state=module.State, key=str)


@pytest.mark.parametrize("keys", [(), (b"0123456789abcdef",)], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("before", "after"), VERSIONS.values(), ids=VERSIONS)
def test_a_field_is_added(module: types.ModuleType, before: str, after: str, keys: tuple[bytes, ...]) -> None:
    old = computation(module, before)
    state = old.state.new()
    state.price = 7.5
    stored = StateCodec(keys).dump(old, "key", state)
    new, codec = computation(module, after), StateCodec(keys)
    one, other = codec.load(new, "key", stored), codec.load(new, "key", stored)
    assert (one.price, list(one.names)) == (7.5, [])
    one.names.append("a")
    assert other.names == [], "each key has its own"
    assert codec.load(new, "key", codec.dump(new, "key", one)).names == ["a"]


def test_a_class_that_is_stored_by_position_is_refused(module: types.ModuleType) -> None:
    source = "@dataclass(slots=True, frozen=True)\nclass State:\n    prices: list = field(default_factory=list)\n"
    with pytest.raises(DeclarationError, match=r"fields are stored by position: .*Leave frozen=True out"):
        computation(module, source)


@pytest.mark.parametrize("where", ["pathlib", "pathlib._local"])
def test_a_path_that_another_version_of_python_wrote(module: types.ModuleType, where: str) -> None:
    """Python 3.13 writes `pathlib._local`."""
    new, codec = computation(module, "class State:\n    path = None\n"), StateCodec()

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    path = text(where) + text("PurePosixPath") + b"\x93" + text("/") + text("a") + text("b") + b"\x87R"
    data = b"\x80\x04" + text(MODULE) + text("State") + b"\x93)\x81}" + text("path") + path + b"sb."
    assert codec.load(new, "key", codec.seal("count", "key", data)).path == PurePosixPath("/a/b")


#: A class inside a state, before and after the change. `old` and `new` make one.
INSIDE = {
    "set in __init__": (
        "class Line:\n    def __init__(self, price): self.price = price\n",
        "class Line:\n    def __init__(self, price, names=()):\n        self.price = price\n        self.names: list = list(names)\n",
    ),
    "set in __init__ of a base": (
        "class Base: pass\nclass Line(Base):\n    def __init__(self, price): self.price = price\n",
        "class Base:\n    def __init__(self): self.names, self.kind = [], 'x'\n"
        "class Line(Base):\n    def __init__(self, *, price):\n        super().__init__()\n        self.price = price\n",
    ),
    "dataclass": ("@dataclass\nclass Line:\n    price: float\n", "@dataclass\nclass Line:\n    price: float\n    names: list = field(default_factory=list)\n"),
    "dataclass with slots": (
        "@dataclass(slots=True)\nclass Line:\n    price: float\n",
        "@dataclass(slots=True, kw_only=True)\nclass Line:\n    names: list = field(default_factory=list)\n    price: float\n",
    ),
    "attrs": ("@attrs.define\nclass Line:\n    price: float\n", "@attrs.define\nclass Line:\n    price: float\n    names: list = attrs.field(factory=list)\n"),
    "pydantic": (
        "class Line(pydantic.BaseModel):\n    price: float\n",
        "class Line(pydantic.BaseModel):\n    names: list = pydantic.Field(default_factory=list)\n    price: float\n",
    ),
    "msgspec": (
        "class Line(msgspec.Struct):\n    price: float\n",
        "class Line(msgspec.Struct, kw_only=True):\n    names: list = []\n    price: float\n",
    ),
}
STATE = "@dataclass\nclass State:\n    lines: dict[str, list[Line]] = field(default_factory=dict)\n"


@pytest.mark.parametrize("keys", [(), (b"0123456789abcdef",)], ids=["unsigned", "signed"])
@pytest.mark.parametrize(("before", "after"), INSIDE.values(), ids=INSIDE)
def test_a_field_is_added_to_a_class_inside_the_state(module: types.ModuleType, before: str, after: str, keys: tuple[bytes, ...]) -> None:
    old = computation(module, before + STATE)
    state = old.state.new()
    state.lines["a"] = [module.Line(price=7.5), module.Line(price=8.5)]
    stored = StateCodec(keys).dump(old, "key", state)
    new, codec = computation(module, after + STATE), StateCodec(keys)
    one, other = codec.load(new, "key", stored).lines["a"]
    assert [(line.price, list(line.names)) for line in (one, other)] == [(7.5, []), (8.5, [])]
    one.names.append("a")
    assert other.names == [], "each object has its own"
