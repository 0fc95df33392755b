"""States of older versions are read as data and migrated. Classes may be renamed. What cannot be read says so."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celery_partitions import migrates, state
from celery_partitions.model.errors import DeclarationError, MigrationFailed, StateError
from celery_partitions.model.versions import versions_of
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.record import UNSIGNED, split
from tests.model.classes_in_time import Code, code_in_time

#: How each kind of class declares the fields of version 1, and of version 3.
KINDS = {
    "plain": ("class State:\n", "{name} = {value}", "{name} = {value}"),
    "dataclass": ("@dataclass\nclass State:\n", "{name}: object = {value}", "{name}: list = field(default_factory=list)"),
    "slots": ("@dataclass(slots=True)\nclass State:\n", "{name}: object = {value}", "{name}: list = field(default_factory=list)"),
    "msgspec": ("class State(msgspec.Struct):\n", "{name}: object = {value}", "{name}: list = []"),
    "pydantic": ("class State(pydantic.BaseModel):\n", "{name}: object = {value}", "{name}: list = []"),
    "pydantic's dataclass": (
        "@pydantic.dataclasses.dataclass\nclass State:\n",
        "{name}: object = {value}",
        "{name}: list = field(default_factory=list)",
    ),
    "attrs": ("@attrs.define\nclass State:\n", "{name}: object = {value}", "{name}: list = attrs.field(factory=list)"),
}
MIGRATIONS = """
@migrates(State, to_version=2)
def to_cents(old):
    old["cents"] = round(old.pop("price") * 100)
    return old

@migrates(State, to_version=3)
def without_gone(old):
    return {name: value for name, value in old.items() if name != "gone"}
"""
KEYS: list[tuple[bytes, ...]] = [(), (b"0123456789abcdef",)]


@pytest.fixture
def code() -> Iterator[Code]:
    with code_in_time() as made:
        yield made


def source(kind: str, *, version: int = 1, **values: str) -> str:
    head, one, many = KINDS[kind]
    fields = [(many if value == "[]" else one).format(name=name, value=value) for name, value in values.items()]
    return (f"@state(version={version})\n" if version > 1 else "") + head + "".join(f"    {field}\n" for field in fields)


@pytest.mark.parametrize("keys", KEYS, ids=["unsigned", "signed"])
@pytest.mark.parametrize("kind", KINDS)
def test_an_older_state_passes_the_migrations(code: Code, kind: str, keys: tuple[bytes, ...]) -> None:
    old = code.at(source(kind, price="1.0", gone="3", items="[]"))
    assert old.state is not None
    made = old.state.new()
    made.price, made.gone = 2.5, 4
    made.items.append("a")
    stored = StateCodec(keys).dump(old, "key", made)

    new, codec = code.at(source(kind, version=3, cents="0", items="[]", extra="'x'") + MIGRATIONS), StateCodec(keys)
    state = codec.load(new, "key", stored)
    assert (state.cents, state.items, state.extra, hasattr(state, "gone")) == (250, ["a"], "x", False)
    again = codec.dump(new, "key", state)
    assert split(again).header == {"v": 3} and codec.load(new, "key", again).cents == 250
    with pytest.raises(StateError, match=r"has version 3, but this process has version 1 of State\. Newer code wrote it"):
        StateCodec(keys).load(code.at(source(kind, price="1.0", gone="3", items="[]")), "key", again)


def test_a_class_without_a_version_pays_nothing(code: Code) -> None:
    one = code.at("@state(formerly='old.State')\nclass State:\n    price = 1.0\n")
    assert one.state is not None and StateCodec().dump(one, "key", one.state.new())[:1] == UNSIGNED


@pytest.mark.parametrize("keys", KEYS, ids=["unsigned", "signed"])
def test_a_class_that_was_moved_and_renamed(code: Code, keys: tuple[bytes, ...]) -> None:
    items = "class Item:\n    price = 0\n"
    old = code.at(f"{items}class Account:\n    items = []\n", "old_shop", "Account")
    assert old.state is not None
    made = old.state.new()
    made.items.append(__import__("old_shop").Item())
    made.items[0].price = 5
    stored = StateCodec(keys).dump(old, "key", made)
    code.remove("old_shop")

    new = code.at(f"@state(formerly='old_shop.Item')\n{items}@state(formerly='old_shop.Account')\nclass State:\n    items = []\n")
    state = StateCodec(keys).load(new, "key", stored)
    assert type(state).__name__ == "State" and [one.price for one in state.items] == [5]
    unaware = code.at("class State:\n    items = []\n")
    with pytest.raises(StateError, match="names old_shop"):
        StateCodec(keys).load(unaware, "key", stored)


@pytest.mark.parametrize("keys", KEYS, ids=["unsigned", "signed"])
@pytest.mark.parametrize("kind", ["plain", "dataclass", "slots", "pydantic", "attrs"])
def test_classes_that_are_gone_are_data(code: Code, kind: str, keys: tuple[bytes, ...]) -> None:
    item = source(kind, price="0").replace("State", "Item")
    old = code.at(f"{item}class Account:\n    items = []\n    by_item = {{}}\n", "old_shop", "Account")
    assert old.state is not None
    made = old.state.new()
    one = __import__("old_shop").Item()
    one.price = 7
    made.items.append(one)
    stored = StateCodec(keys).dump(old, "key", made)
    code.remove("old_shop")

    migration = "@migrates(State, to_version=2)\ndef to_sum(old):\n    return {'kept': old['items'], 'sum': sum(one['price'] for one in old['items'])}\n"
    new = code.at("@state(version=2, formerly='old_shop.Account')\nclass State:\n    sum = 0\n    kept = []\n" + migration)
    codec = StateCodec(keys)
    state = codec.load(new, "key", stored)
    assert state.sum == 7
    again = codec.load(new, "key", codec.dump(new, "key", state))
    assert type(again.kept[0]) is dict and again.kept[0]["price"] == 7


def test_a_class_with_its_own_form(code: Code) -> None:
    form = "    def __getstate__(self): return {'stored': self.value}\n    def __setstate__(self, given): self.value = given['stored'] + 1\n"
    old = code.at("class State:\n    value = 1\n" + form)
    assert old.state is not None
    stored = StateCodec().dump(old, "key", old.state.new())
    new = code.at("@state(version=2)\nclass State:\n    value = 1\n" + form + "@migrates(State, to_version=2)\ndef same(old): return {'stored': old['stored'] * 10}\n")
    assert StateCodec().load(new, "key", stored).value == 11


BAD_MIGRATIONS = {
    "raises": ("raise KeyError('price')", r"with version 1: the migration of State to version 2 raised KeyError: 'price'"),
    "returns nothing": ("old['cents'] = 1", r"must return a dict: attribute name → value, not NoneType"),
    "misspells a field": ("return {'sents': 1}", r"return the attribute 'sents', which the class does not have"),
}


@pytest.mark.parametrize(("body", "text"), BAD_MIGRATIONS.values(), ids=BAD_MIGRATIONS)
@pytest.mark.parametrize("kind", ["dataclass", "slots", "msgspec", "pydantic", "attrs"])
def test_a_migration_that_fails(code: Code, kind: str, body: str, text: str) -> None:
    old = code.at(source(kind, price="1.0"))
    assert old.state is not None
    stored = StateCodec().dump(old, "key", old.state.new())
    new = code.at(source(kind, version=2, cents="0") + f"@migrates(State, to_version=2)\ndef one(old):\n    {body}\n")
    with pytest.raises(MigrationFailed, match=text):
        StateCodec().load(new, "key", stored)


def test_a_version_without_a_migration(code: Code) -> None:
    old = code.at("class State:\n    price = 1.0\n")
    assert old.state is not None
    stored = StateCodec().dump(old, "key", old.state.new())
    new = code.at("@state(version=2)\nclass State:\n    price = 1.0\n")
    with pytest.raises(StateError, match=r"has version 1, but State has no migration to version 2\. Add @migrates\(State, to_version=2\)"):
        StateCodec().load(new, "key", stored)


def same(old: dict[str, Any]) -> dict[str, Any]:
    return old


def test_declarations_that_cannot_work(code: Code) -> None:
    @state(version=4)
    class Account: ...

    class Plain: ...

    for version in (0, -1, True, "2", 2.0):
        with pytest.raises(DeclarationError, match="version must be an integer from 1"):
            state(version=version)  # type: ignore[arg-type]
    for formerly in ("Account", "", [3]):
        with pytest.raises(DeclarationError, match=r"such as 'shop\.old\.Account'"):
            state(formerly=formerly)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match="belongs on a class"):
        state()(same)  # type: ignore[type-var]
    with pytest.raises(DeclarationError, match="State is a dict, and cannot have versions"):
        code.at("@state(version=2)\nclass State(dict): pass\n")
    with pytest.raises(DeclarationError, match=r"Plain has no version\. Put @state"):
        migrates(Plain, to_version=2)
    for version in (1, 5, "2"):
        with pytest.raises(DeclarationError, match="to_version must be from 2 to 4"):
            migrates(Account, to_version=version)  # type: ignore[arg-type]
    with pytest.raises(DeclarationError, match=r"were formerly .a\.B."):
        code.at("@state(formerly='a.B')\nclass One: pass\n@state(formerly='a.B')\nclass State: pass\n")
    migrates(Account, to_version=4)(same)
    migrates(Account, to_version=2)(same)
    with pytest.raises(DeclarationError, match="has two migrations to version 2"):
        migrates(Account, to_version=2)(dict)
    assert versions_of(Account).oldest == 3
    with pytest.raises(DeclarationError, match=r"to version 2, but none to version 3.*to_version=3"):
        versions_of(Account).check(Account)


def test_objects_inside_get_new_fields_before_the_migrations(code: Code) -> None:
    item = "@dataclass\nclass Item:\n    price: int = 1\n"
    old = code.at(f"{item}class State:\n    def __init__(self): self.items = [Item()]\n")
    assert old.state is not None
    stored = StateCodec().dump(old, "key", old.state.new())
    migration = "@migrates(State, to_version=2)\ndef tags(old): return {'tags': [one.tags for one in old['items']]}\n"
    new = code.at(f"{item}    tags: list = field(default_factory=list)\n@state(version=2)\nclass State:\n    tags = []\n{migration}")
    assert StateCodec().load(new, "key", stored).tags == [[]]
