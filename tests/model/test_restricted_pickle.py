"""What a state's pickle may name: plain data, classes of its own module, and what is allowed. Nothing else is imported or called."""

from __future__ import annotations

import array
import collections
import datetime
import decimal
import fractions
import ipaddress
import pathlib
import pickle
import sys
import types
import uuid
import zoneinfo
from dataclasses import replace
from typing import Any

import pytest

from celery_partitions.model.declaration import declare
from celery_partitions.model.errors import DeclarationError, StateError
from celery_partitions.model.restricted_pickle import PLAIN, Allowed, NotAllowed, unsigned_loader
from celery_partitions.model.state import StateClass
from celery_partitions.store.codec import StateCodec
from tests.model import foreign, pickled
from tests.model.pickled import Keywords, Rebuilt, Right, State, Unit

OWN = State.__module__


def load(data: bytes, *modules: str, cls: type = State) -> Any:
    return unsigned_loader(Allowed(cls, modules))(data)


def naming(module: str, name: str, then: bytes = b".") -> bytes:
    """A pickle that names something, and then does something with it."""

    def text(value: str) -> bytes:
        return b"\x8c" + bytes([len(value)]) + value.encode()

    return b"\x80\x05" + text(module) + text(name) + b"\x93" + then


#: Opcodes: call with no arguments; call with one text; make an object of a class.
CALL, CALL_WITH_TEXT, NEW = b")R.", b"\x8c\x01x\x85R.", b")\x81."


def stated(value: object) -> State:
    made = State()
    made.value = value
    return made


PLAIN_VALUES: list[Any] = [
    *(None, True, 1, 2**200, 1.5, 1j, "text", b"bytes", bytearray(b"b"), [1], (1,), {"a": {1}}, frozenset({1})),
    *(range(3), slice(1, 2), ..., NotImplemented, int, list, object),
    *(collections.OrderedDict(a=1), collections.defaultdict(list, a=[1]), collections.Counter("aab")),
    *(collections.deque([1], 5), collections.ChainMap({"a": 1}), collections.UserDict(a=1), types.SimpleNamespace(a=1)),
    *(datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC), datetime.date(2026, 1, 2), datetime.time(1)),
    *(datetime.timedelta(1), datetime.timezone(datetime.timedelta(hours=1), "x"), zoneinfo.ZoneInfo("UTC")),
    *(decimal.Decimal("1.5"), fractions.Fraction(1, 3), uuid.UUID(int=5), array.array("d", [1.5])),
    *(pathlib.PurePosixPath("/a"), pathlib.PureWindowsPath("a"), pathlib.Path("/a")),
    *(ipaddress.ip_address("::1"), ipaddress.ip_network("10.0.0.0/8"), Unit.EUR, Right.READ, Right.READ | Right.WRITE),
    *(State.Inner, pickled.Other),
]


@pytest.mark.parametrize("value", PLAIN_VALUES, ids=repr)
@pytest.mark.parametrize("protocol", [4, 5])
def test_plain_data_and_the_modules_own_classes_are_restored(value: object, protocol: int) -> None:
    back = load(pickle.dumps(stated(value), protocol)).value
    assert back == value and type(back) is type(value)


def test_an_exception_and_an_object_of_an_inner_class_are_restored() -> None:
    assert str(load(pickle.dumps(stated(ValueError("why"))), cls=State).value) == "why"
    assert isinstance(load(pickle.dumps(stated(State.Inner()))).value, State.Inner)


@pytest.mark.parametrize("cls", [dict, set, collections.Counter, collections.deque, Keywords])
def test_states_of_any_kind_are_restored(cls: type) -> None:
    assert load(pickle.dumps(cls(), 5), cls=cls) == cls()


def test_an_enum_member_by_getattr_as_python_3_11_2_wrote_it() -> None:
    by_name = naming("builtins", "getattr", naming(OWN, "Unit")[2:-1] + b"\x8c\x03EUR\x86R.")
    assert load(by_name) is Unit.EUR


#: Names that must not be reachable, each with what an attacker would do with it.
ESCAPES = {
    "a function of the system": naming("os", "system", CALL_WITH_TEXT),
    "its real module": naming("posix", "system", CALL_WITH_TEXT),
    "a class that runs a program": naming("subprocess", "Popen", CALL_WITH_TEXT),
    "eval": naming("builtins", "eval", CALL_WITH_TEXT),
    "import": naming("builtins", "__import__", CALL_WITH_TEXT),
    "open": naming("builtins", "open", CALL_WITH_TEXT),
    "type, which makes classes": naming("builtins", "type", CALL_WITH_TEXT),
    "a module imported in its own": naming(OWN, "os"),
    "a function behind that": naming(OWN, "os.system", CALL_WITH_TEXT),
    "a function behind another": naming(OWN, "shutil.rmtree", CALL_WITH_TEXT),
    "a class imported in its own": naming(OWN, "datetime", NEW),
    "a module that is a class's attribute": naming(OWN, "State.system.system", CALL_WITH_TEXT),
    "what an allowed class inherits": naming(OWN, "State.__class__", CALL_WITH_TEXT),
    "its subclasses": naming(OWN, "State.__subclasses__", CALL),
    "its base": naming(OWN, "State.__base__", NEW),
    "a method": naming(OWN, "State.method", CALL_WITH_TEXT),
    "a function's globals": naming(OWN, "function.__globals__"),
    "a function of its own module": naming(OWN, "function", CALL),
    "a value of its own module": naming(OWN, "called"),
    "the module's machinery": naming(OWN, "__loader__"),
    "nothing": naming(OWN, ""),
    "dots": naming(OWN, "..State"),
    "a plain class's method": naming("builtins", "str.format"),
    "getattr of a class": naming("builtins", "getattr", naming(OWN, "State")[2:-1] + b"\x8c\x06system\x86R."),
    "getattr of data": naming("builtins", "getattr", b"\x8c\x01x\x8c\x06format\x86R."),
    "a function of a module of plain data": naming("collections", "namedtuple", CALL_WITH_TEXT),
    "partial": naming("functools", "partial", naming(OWN, "State")[2:-1] + b"\x85R."),
    "a module that is not imported": naming("antigravity", "webbrowser.open"),
    "a class of a module that is not allowed": naming(foreign.__name__, "Foreign", NEW),
    "Python 2's names": b"cos\nsystem\n.",
    "the older opcode": b"cposix\nsystem\n(S'x'\ntR.",
    "the oldest opcode": b"(S'x'\nios\nsystem\n.",
    "a persistent id": b"\x80\x05\x8c\x01xQ.",
}


@pytest.mark.parametrize("data", ESCAPES.values(), ids=ESCAPES.keys())
def test_what_is_not_allowed_is_not_reachable(data: bytes) -> None:
    pickled.called.clear()
    before = set(sys.modules)
    with pytest.raises(pickle.UnpicklingError):
        load(data)
    assert not pickled.called
    assert set(sys.modules) == before


def test_a_refusal_contains_the_name_and_the_setting_that_allows_it() -> None:
    with pytest.raises(NotAllowed, match=r"names tests\.model\.foreign\.Foreign.*PARTITIONS_STATE_MODULES=tests\.model\.foreign$"):
        load(pickle.dumps(stated(foreign.Foreign())))
    for module, name in (("builtins", "eval"), ("operator", "attrgetter"), ("subprocess", "Popen"), ("os", "system"), ("shutil", "rmtree"), ("random", "seed")):
        with pytest.raises(NotAllowed, match=r"Keep it out of the state: with it, a forged state could run any code$"):
            load(naming(module, name))
    with pytest.raises(NotAllowed, match=r"PARTITIONS_STATE_MODULES=tests\.model\.foreign:helper$"):
        load(pickle.dumps(stated(foreign.helper)))


@pytest.mark.parametrize("entry", ["tests.model.foreign", "tests.*", "tests.model.*", "tests.model.foreign:Foreign"])
def test_a_setting_allows_a_module_a_package_or_one_name(entry: str) -> None:
    assert isinstance(load(pickle.dumps(stated(foreign.Foreign())), entry).value, foreign.Foreign)


@pytest.mark.parametrize("entry", ["tests.model.foreign", "tests.*", "test.*", "tests.mode.*", "tests"])
def test_an_allowed_module_gives_only_classes_that_are_defined_in_it(entry: str) -> None:
    for name in ("helper", "State", "annotations", "Foreign.__init__"):
        with pytest.raises(NotAllowed):
            load(naming("tests.model.foreign", name), entry)


def test_a_function_is_allowed_by_its_name() -> None:
    assert load(pickle.dumps(stated(foreign.helper)), "tests.model.foreign:helper").value is foreign.helper
    with pytest.raises(NotAllowed, match="does not exist"):
        load(naming("tests.model.foreign", "gone"), "tests.model.foreign:gone")


def test_no_module_of_a_package_is_imported_unless_the_application_imported_it() -> None:
    sys.modules.pop("wsgiref.simple_server", None)
    with pytest.raises(NotAllowed, match="imported module"):
        load(naming("wsgiref.simple_server", "WSGIServer"), "wsgiref.*")
    assert "wsgiref.simple_server" not in sys.modules


def test_the_error_names_a_module_that_cannot_be_imported() -> None:
    with pytest.raises(NotAllowed, match="can't be imported"):
        load(naming("no.such.module", "Thing"), "no.such.module")


def test_a_builtin_state_class_allows_only_itself_of_its_module() -> None:
    for name in ("eval", "type", "map"):
        with pytest.raises(pickle.UnpicklingError):
            load(naming("builtins", name, b"\x8c\x01x\x85R."), cls=dict)


def test_plain_classes_have_the_names_they_are_listed_under() -> None:
    for (module, name), found in PLAIN.items():
        if isinstance(found, type):
            assert found.__qualname__ == name and module in (found.__module__, "pathlib", "pathlib._local")
        assert name not in ("eval", "exec", "type", "compile", "open", "__import__")


def test_a_state_class_that_cannot_be_read_back_is_refused_with_what_to_allow() -> None:
    StateClass(State).check_allowed(())
    made = StateClass(Rebuilt)
    with pytest.raises(DeclarationError, match=r"Rebuilt could not be read back.*PARTITIONS_STATE_MODULES=tests\.model\.pickled:rebuild"):
        made.check_allowed(())
    made.check_allowed(("tests.model.pickled:rebuild",))


def test_an_initial_state_with_an_object_of_another_module_is_refused_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(foreign.Holder, "value", foreign.Foreign(), raising=False)
    StateClass(foreign.Holder).check_allowed(())
    monkeypatch.setattr(foreign.Holder, "held", [pickled.Other()], raising=False)
    with pytest.raises(DeclarationError, match=r"tests\.model\.pickled"):
        StateClass(foreign.Holder).check_allowed(())


def test_a_star_allows_everything_in_imported_modules_and_imports_nothing() -> None:
    assert load(naming("tests.model.pickled", "rebuild"), "*") is pickled.rebuild
    with pytest.raises(NotAllowed):
        load(naming("antigravity", "webbrowser"), "*")
    assert "antigravity" not in sys.modules


def test_a_star_has_no_effect_without_a_signing_key() -> None:
    made = StateClass(Rebuilt)
    computation = declare(lambda message, state: None, name="star", state=State, key=lambda message: message)
    computation = replace(computation, state=made)
    signing, other = StateCodec((b"a secret of this test",), ("*",)), StateCodec((), ("*",))
    assert isinstance(signing.load(computation, "k", signing.dump(computation, "k", Rebuilt())), Rebuilt)
    with pytest.raises(StateError, match="PARTITIONS_STATE_MODULES="):
        other.dump(computation, "k", Rebuilt())


def test_a_state_may_be_created_by_a_function() -> None:
    made = StateClass(State, make=lambda: stated("given"))
    assert made.new().value == "given"
