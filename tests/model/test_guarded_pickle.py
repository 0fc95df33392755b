"""What an unsigned pickle may do: it changes only objects that it created, and calls only what ordinary pickles call."""

from __future__ import annotations

import datetime
import pickle
import subprocess
import sys
import zoneinfo
from collections import defaultdict
from fractions import Fraction
from pathlib import PosixPath
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import StateError
from celery_partitions.model.restricted_pickle import Allowed, unsigned_loader
from celery_partitions.store.codec import StateCodec
from celery_partitions.store.record import UNSIGNED
from tests.fuzz.pickle_programs import changes, named, process, text
from tests.model import pickled
from tests.model.pickled import (
    Book,
    Failure,
    PlainSlots,
    Positional,
    Price,
    Right,
    Row,
    Rows,
    Shared,
    Slotted,
    State,
    Unit,
)

OWN = State.__module__
LOAD = unsigned_loader(Allowed(State, (f"{OWN}:function",)))


def program(*opcodes: bytes) -> bytes:
    return b"\x80\x05" + b"".join(opcodes) + b"."


def own(name: str) -> bytes:
    return named(OWN, name)


def by_dict(name: str, value: bytes) -> bytes:
    """BUILD with the dict of attributes {name: value}."""
    return b"}" + text(name) + value + b"sb"


def by_setattr(name: str, value: bytes) -> bytes:
    """BUILD with the slots {name: value}, which calls setattr."""
    return b"N}" + text(name) + value + b"s\x86b"


NEW, CALL, FIVE, UNIT = b")\x81", b")R", b"K\x05", own("Unit") + text("eur") + b"\x85R"
BYTES, HUGE = named("builtins", "bytes"), b"J\xff\xff\xff\x7f"
RANGE = named("builtins", "range") + HUGE + b"\x85R"

ATTACKS = {
    "__new__ of a plain class": (named("fractions", "Fraction"), by_setattr("__new__", own("State"))),
    "a method of a plain class": (named("pathlib", "PosixPath"), by_setattr("read_bytes", own("State"))),
    "how the state class is pickled": (own("State"), by_setattr("__reduce_ex__", own("State"))),
    "an attribute of the state class": (own("State"), by_setattr("value", FIVE)),
    "an attribute of a class, from the memo": (own("State"), b"\x94", NEW, b"0h\x00", by_setattr("value", FIVE)),
    "the code of a function": (own("function"), by_setattr("__code__", b"N")),
    "the attributes of a function": (own("function"), by_dict("called", FIVE)),
    "a function that rebuilds arrays": (named("array", "_array_reconstructor"), by_dict("called", FIVE)),
    "an Enum member's value": (UNIT, by_dict("_value_", FIVE)),
    "an Enum member's value, by setattr": (UNIT, by_setattr("_value_", FIVE)),
    "an object that a class shares, by NEWOBJ": (own("Shared"), NEW, by_dict("limit", FIVE)),
    "the same by setattr": (own("Shared"), NEW, by_setattr("limit", FIVE)),
    "the appending method of a class": (own("Collecting"), FIVE, b"a"),
    "the extending method of a class": (own("Collecting"), b"(", FIVE, b"e"),
    "the adding method of a class": (own("Collecting"), b"(", FIVE, b"\x90"),
    "a call of a class that pickles do not call": (own("Sender"), CALL),
    "the same with an argument for __new__": (own("Sender"), FIVE, b"\x85\x81"),
    "a call of an object": (own("Callable"), NEW, CALL),
    "a call of a class that was made into data": (own("Callable"), NEW, b")\x81"),
    "an object's own __setstate__": (own("Other"), NEW, by_dict("__setstate__", own("Sender")), b"Nb"),
    "an object's own way to be pickled": (own("Other"), NEW, by_dict("__reduce_ex__", own("Sender"))),
    "another class for an object": (own("Other"), NEW, by_setattr("__class__", own("Callable"))),
    "a defaultdict with a callable object": (named("collections", "defaultdict"), own("Callable"), NEW, b"\x85R"),
    "a new class by an Enum's call": (own("Unit"), text("X"), text("A B"), b"\x86R"),
    "a new object of an Enum": (own("Unit"), NEW),
    "a Struct of another class": (named("msgspec._utils", "rebuild"), own("Sender"), b"}\x86R"),
    "or of what are no flags": (named("_operator", "or_"), b"}}\x86R"),
    "an array of another class": (named("array", "_array_reconstructor"), b"(", own("Sender"), text("d"), FIVE, b"C\x01xtR"),
    "bytes of a size": (BYTES, HUGE, b"\x85R"),
    "a bytearray of a size": (named("builtins", "bytearray"), HUGE, b"\x85R"),
    "bytes of a size, by NEWOBJ": (BYTES, HUGE, b"\x85\x81"),
    "bytes of a size, by copyreg.__newobj__": (named("copyreg", "__newobj__"), BYTES, HUGE, b"\x86R"),
    "bytes of a size, by copyreg._reconstructor": (named("copyreg", "_reconstructor"), BYTES, BYTES, HUGE, b"\x87R"),
    "a list of a range": (named("builtins", "list"), RANGE, b"\x85R"),
    "a tuple of a range, by NEWOBJ": (named("builtins", "tuple"), RANGE, b"\x85\x81"),
    "a deque of a range": (named("collections", "deque"), RANGE, b"\x85R"),
    "a subclass's list of a range": (own("Rows"), RANGE, b"\x85\x81"),
    "a range in a slice of a list": (b"]", named("builtins", "slice"), b"NN\x86R", RANGE, b"s"),
    "text that is longer than the pickle": (b"X\xff\xff\xff\x7f",),
    "a memo of four gigabytes": (b"Nr\xff\xff\xff\xff",),
    "an object of another protocol": (b"(", own("Sender"), b"o"),
    "a registered extension": (b"\x82\x01",),
    "a persistent id": (text("x"), b"Q"),
}


@pytest.mark.parametrize("opcodes", ATTACKS.values(), ids=ATTACKS.keys())
def test_an_attack_changes_nothing_and_calls_nothing(opcodes: tuple[bytes, ...]) -> None:
    Shared()
    pickled.called.clear()
    before = process()
    with pytest.raises(pickle.UnpicklingError):
        LOAD(program(*opcodes))
    assert changes(before) == []
    assert not pickled.called


def test_the_codec_guards_unsigned_states() -> None:
    computation = declare(lambda message, state: None, name="count", state=State, key=str)
    forged = program(*ATTACKS["how the state class is pickled"])
    with pytest.raises(StateError, match=r"would change tests\.model\.pickled\.State, which it did not create"):
        StateCodec().load(computation, "key", UNSIGNED + forged)


def recursive() -> list[Any]:
    rows: list[Any] = [1]
    rows.append({"rows": rows, "pair": (rows,)})
    return rows


def failure() -> Failure:
    made = Failure("why", 5)
    made.args = ("why", 5)
    made.add_note("seen")
    return made


def with_attributes(made: Any, **attributes: Any) -> Any:
    for name, value in attributes.items():
        setattr(made, name, value)
    return made


OBJECTS: dict[str, Any] = {
    "dataclass": Row("A", [Price(1.5, Unit.EUR), Price(2.0, Unit.EUR)]),
    "dataclass with slots": Slotted("A", Row()),
    "slots": with_attributes(PlainSlots(), a=1, b=Right.READ | Right.WRITE),
    "list with attributes": with_attributes(Rows([1, 2]), name="x"),
    "dict with attributes": with_attributes(Book(a=1), name="x"),
    "Struct": Positional(1.5, [Row()]),
    "defaultdict of a class": defaultdict(Row, a=Row()),
    "same object twice": [row := Row(), row],
    "zones": [datetime.datetime(2026, 1, 2, tzinfo=zoneinfo.ZoneInfo("Europe/Paris")), datetime.UTC],
    "ranges": [range(10**9), slice(1, 2, None), (range(10**12),)],
    "long": [2**100, -(2**100), 2**3000, -5, 70_000, 300, "x" * 300, b"x" * 300, bytearray(b"x")],
    "many": list(range(5000)),
    "fraction and path": [Fraction(1, 3), PosixPath("/a/b")],
}


@pytest.mark.parametrize("value", OBJECTS.values(), ids=OBJECTS.keys())
@pytest.mark.parametrize("protocol", [4, 5])
def test_the_guard_reads_the_same_values_as_pickle(value: Any, protocol: int) -> None:
    data = pickle.dumps(value, protocol)
    back = LOAD(data)
    assert type(back) is type(value)
    assert pickle.dumps(back, 5) == pickle.dumps(pickle.loads(data), 5)


def test_an_exception_keeps_its_attributes_and_notes() -> None:
    back = LOAD(pickle.dumps(failure()))
    assert (type(back), back.args, back.__notes__) == (Failure, ("why", 5), ["seen"])


def test_recursive_objects_are_restored() -> None:
    back = LOAD(pickle.dumps(recursive()))
    assert back[1]["rows"] is back and back[1]["pair"][0] is back


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary() | st.sampled_from(Unit),
    lambda inner: (
        st.lists(inner, max_size=5)
        | st.dictionaries(st.text() | st.integers(), inner, max_size=5)
        | st.tuples(inner)
        | st.builds(Row, st.text(), st.lists(inner, max_size=3))
        | st.frozensets(st.integers() | st.text(), max_size=4)
        | st.sets(st.integers(), max_size=4)
    ),
    max_leaves=20,
)


@given(VALUES, st.sampled_from([4, 5]))
def test_any_data_is_restored(value: Any, protocol: int) -> None:
    assert LOAD(pickle.dumps(value, protocol)) == value


@given(VALUES, st.data())
def test_a_truncated_or_damaged_pickle_is_an_error_and_not_a_crash(value: Any, data: st.DataObject) -> None:
    whole = pickle.dumps(value, 5)
    at = data.draw(st.integers(0, len(whole)))
    with pytest.raises(pickle.UnpicklingError):
        LOAD(whole[:at][:-1])


def test_a_state_that_the_guard_would_refuse_is_not_written() -> None:
    """Otherwise its key could never be read again. A class that shares one object is an example."""
    computation = declare(lambda message, state: None, name="count", state=State, key=str)
    Shared()
    state = State()
    state.value = pickled.Shared.only
    pickled.Shared.only.limit = 5  # so that it has attributes to set
    with pytest.raises(StateError, match="would change an object of"):
        StateCodec().dump(computation, "key", state)
    state.value = Unit.EUR
    stored = StateCodec().dump(computation, "key", state)
    assert StateCodec().load(computation, "key", stored).value is Unit.EUR


@pytest.mark.parametrize(("which", "status"), [("signed", 1), ("unsigned", 0)])
def test_opcode_programs_change_nothing_and_the_check_would_notice_a_change(which: str, status: int) -> None:
    """The check is tested on Python's own unpickler, which reads signed states."""
    command = [sys.executable, "-m", "tests.fuzz.pickle_programs", which, "15" if which == "unsigned" else "60"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == status, done.stdout + done.stderr
