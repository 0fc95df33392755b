"""Restricted unpicklers: they limit what a state's pickle may name.

A pickle is a program: it imports and calls what it names. So a state's pickle may name only plain data types, the classes of the state
class's own module, and what the application allows (PARTITIONS_STATE_MODULES). From a module it may name only classes that are defined
there. If `shop` imports `os`, a pickle can't reach `os.system` through `shop`, and it can't call a function of `shop`. A signature does
not change these rules.

There are two loaders. `signed_loader` is Python's own unpickler with these rules. `unsigned_loader` also restricts what the pickle does
with what it names (`guarded_pickle`), because anybody who can write to Redis can forge an unsigned pickle.

`PARTITIONS_STATE_MODULES=*` lifts the rules: a pickle may name anything in an imported module. It requires a signing key, and is meant for
runs in which all processes run the same program. Then anyone with the key can run any code.

A pickle can still waste memory and time. Only a signature keeps forged pickles out.
"""

from __future__ import annotations

import array
import builtins
import collections
import copy
import copyreg
import datetime
import decimal
import enum
import fractions
import importlib
import ipaddress
import pathlib
import pickle
import sys
import types
import uuid
import zoneinfo
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import Any

import msgspec

from celery_partitions.model.pickle_opcodes import load_guarded
from celery_partitions.model.versions import renamed, versions_of

_PATHS = (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
_PLAIN: tuple[type, ...] = (
    *(object, bool, int, float, complex, str, bytes, bytearray, list, tuple, dict, set, frozenset, range, slice),
    *(cls for cls in vars(builtins).values() if isinstance(cls, type) and issubclass(cls, Exception)),
    *(collections.OrderedDict, collections.defaultdict, collections.Counter, collections.deque, collections.ChainMap),
    *(collections.UserDict, collections.UserList, collections.UserString, types.SimpleNamespace, array.array),
    *(datetime.datetime, datetime.date, datetime.time, datetime.timedelta, datetime.timezone, zoneinfo.ZoneInfo),
    *(decimal.Decimal, fractions.Fraction, uuid.UUID, uuid.SafeUUID),
    *_PATHS,
    *(ipaddress.IPv4Address, ipaddress.IPv4Interface, ipaddress.IPv4Network),
    *(ipaddress.IPv6Address, ipaddress.IPv6Interface, ipaddress.IPv6Network),
)

PLAIN_CLASSES = frozenset(_PLAIN)


def _member(owner: Any, name: Any) -> Any:
    """Replaces `getattr`, with which Python 3.11 pickles Enum members, and all versions a ZoneInfo. Refuses everything else."""
    if isinstance(owner, enum.EnumMeta):
        return owner.__members__[name]
    if owner is zoneinfo.ZoneInfo and name == "_unpickle":
        return _zone
    raise NotAllowed("builtins", "getattr")


# Replacements for the functions with which copyreg and C extensions rebuild objects. Each checks the class before it calls it.


def _zone(key: Any, from_cache: Any) -> zoneinfo.ZoneInfo:
    if type(key) is not str:
        raise pickle.UnpicklingError("the pickle names a time zone with a value that is not a str")
    zone: zoneinfo.ZoneInfo = zoneinfo.ZoneInfo._unpickle(key, bool(from_cache))  # type: ignore[attr-defined]
    return zone


#: What an unsigned pickle may call with any arguments.
_CALLABLE: frozenset[Any] = PLAIN_CLASSES | {_zone}


def _new_object(cls: Any, *arguments: Any, **keywords: Any) -> Any:
    """Replaces `copyreg.__newobj__` and `__newobj_ex__`."""
    if not isinstance(cls, type) or issubclass(cls, type):
        raise pickle.UnpicklingError("the pickle creates an object of something that is not a data class")
    if arguments and not (cls in PLAIN_CLASSES or hasattr(cls, "__getnewargs__") or hasattr(cls, "__getnewargs_ex__")):
        raise pickle.UnpicklingError(
            f"the pickle creates a {cls.__qualname__} with arguments, but the class has no __getnewargs__"
        )
    return cls.__new__(cls, *arguments, **keywords)


def _new_object_with_keywords(cls: Any, arguments: Any, keywords: Any) -> Any:
    return _new_object(cls, *arguments, **keywords)


def _reconstructor(cls: Any, base: Any, state: Any) -> Any:
    """Replaces `copyreg._reconstructor`, with which protocols 0 and 1 create objects."""
    if not isinstance(cls, type) or base not in cls.__mro__ or base not in PLAIN_CLASSES or issubclass(cls, type):
        raise pickle.UnpicklingError("the pickle creates an object of something that is not a data class")
    return copyreg._reconstructor(cls, base, state)  # type: ignore[attr-defined]


def _array(cls: Any, *arguments: Any) -> Any:
    if cls is not array.array:
        raise pickle.UnpicklingError("the pickle creates an array of another class than array.array")
    return array._array_reconstructor(cls, *arguments)  # type: ignore[attr-defined]


def _flags(one: Any, other: Any) -> Any:
    if not isinstance(one, enum.Flag) or type(one) is not type(other):
        raise pickle.UnpicklingError("the pickle combines values that are not members of the same Flag")
    return one | other


def _struct(cls: Any, fields: Any) -> Any:
    if not (isinstance(cls, type) and issubclass(cls, msgspec.Struct)):
        raise pickle.UnpicklingError("the pickle creates a msgspec.Struct, but the class is not a Struct")
    return cls(**fields)


#: (module, name) as pickles write them → the object. Allowed in every state.
PLAIN: dict[tuple[str, str], Any] = {
    **{(cls.__module__, cls.__qualname__): cls for cls in _PLAIN},
    # Where paths are depends on the Python version that wrote them: pathlib._local in 3.13, pathlib in all others.
    **{(module, cls.__qualname__): cls for module in ("pathlib", "pathlib._local") for cls in _PATHS},
    ("builtins", "Ellipsis"): ...,
    ("builtins", "NotImplemented"): NotImplemented,
    ("builtins", "getattr"): _member,
    ("copyreg", "_reconstructor"): _reconstructor,
    ("copyreg", "__newobj__"): _new_object,
    ("copyreg", "__newobj_ex__"): _new_object_with_keywords,
    ("array", "_array_reconstructor"): _array,
    ("_operator", "or_"): _flags,  # Python 3.11's Flag members
    ("msgspec._utils", "rebuild"): _struct,  # a Struct with keyword-only fields
    ("msgspec._core", "UNSET"): msgspec.UNSET,
}


#: The entry of PARTITIONS_STATE_MODULES that allows everything in imported modules.
EVERYTHING = "*"


#: Modules of the standard library with classes that run code, start processes, or open files and connections.
_POWERFUL = frozenset(
    ["builtins", "code", "codeop", "ctypes", "functools", "importlib", "inspect", "io", "marshal", "multiprocessing", "nt", "operator", "os", "pdb", "pickle", "posix", "pty", "runpy", "shelve", "shutil", "signal", "socket", "subprocess", "sys", "threading", "timeit", "trace", "types", "unittest", "urllib", "webbrowser", "zipimport"]
)


class NotAllowed(pickle.UnpicklingError):
    """A pickle names something that is not allowed: `named`. `allow`: the entry of PARTITIONS_STATE_MODULES that would allow it, or None if that would
    let a forged state run any code."""

    def __init__(self, module: str, name: str, why: str = "which is neither plain data nor allowed") -> None:
        found = _class_in(sys.modules.get(module), name)
        self.named = f"{module}.{name}"
        self.allow: str | None = module if found is not None else f"{module}:{name}"
        root = module.partition(".")[0]
        if root in _POWERFUL or (found is None and root in sys.stdlib_module_names):
            self.allow = None
            what = "Keep it out of the state: with it, a forged state could run any code"
        else:
            what = f"If your states contain it, set PARTITIONS_STATE_MODULES={self.allow}"
        super().__init__(f"it names {module}.{name}, {why}. {what}")


class Allowed:
    """What the pickles of one state class may name.

    `modules`: entries of PARTITIONS_STATE_MODULES. `shop.models`: classes defined in that module. `shop.*`: classes defined in imported
    modules of that package. `shop.models:rebuild`: that one object, which may be a function. `*`: anything in an imported module.
    """

    def __init__(self, cls: type, modules: Iterable[str] = ()) -> None:
        modules = tuple(modules)
        self.cls = cls
        #: The classes that pickles named, besides plain data.
        self.classes: set[type] = set()
        #: The names under which the class was stored earlier.
        self.formerly = versions_of(cls).formerly
        self._anything = EVERYTHING in modules
        self._names = {entry for entry in modules if ":" in entry}
        self._packages = tuple(entry.removesuffix(".*") for entry in modules if entry.endswith(".*"))
        self._modules = {entry: entry for entry in modules if not entry.endswith(".*") and ":" not in entry}
        self._modules |= _own_modules(cls)

    def find(self, module: str, name: str) -> Any:
        """The object that a pickle names. Raises `NotAllowed`."""
        try:
            return self._find(module, name)
        except NotAllowed:
            now = renamed(module, name)
            if now is None:
                raise
        return self._find(*now)

    def _find(self, module: str, name: str) -> Any:
        plain = PLAIN.get((module, name), self)
        if plain is not self:
            return plain
        own = self.cls.__module__
        if name == self.cls.__qualname__ and (module == own or "__main__" in (module, own)):
            return self.cls  # a script's class is in `__main__` here, and in a module in a worker
        if self.formerly and f"{module}.{name}" in self.formerly:
            return self.cls
        if f"{module}:{name}" in self._names:
            return _anything_in(module, name)
        if self._anything and module in sys.modules:
            return _anything_in(module, name)
        where = self._modules.get(module)
        if where is not None:
            found = _class_in(_imported(where, name), name)
            if found is None:
                raise NotAllowed(module, name, "which is not a class defined in that module")
            return found
        if any(module == package or module.startswith(f"{package}.") for package in self._packages):
            # Importing runs code, so an entry for a whole package covers only modules that the application has imported.
            found = _class_in(sys.modules.get(module), name)
            if found is None:
                raise NotAllowed(module, name, "which is not a class defined in an imported module")
            return found
        raise NotAllowed(module, name)


def signed_loader(allowed: Allowed) -> Callable[[bytes], Any]:
    """`pickle.loads` for states of one class whose signature was verified. Raises `NotAllowed`, and what pickle raises.

    It checks only what a pickle names. A forged pickle could still change classes; see `unsigned_loader`.
    """
    find = _remembering(allowed)

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            return find(module, name)

    return lambda data: Restricted(BytesIO(data)).load()


def unsigned_loader(allowed: Allowed) -> Callable[[bytes], Any]:
    """The same for unsigned states, which anybody who can write to Redis may have forged.

    It also checks what a pickle does (`guarded_pickle`). It is slower: about 5 times for a small state, 20 to 30 times for a large one.
    """
    find = _remembering(allowed)
    return lambda data: load_guarded(data, find, _CALLABLE)


def readable_check(allowed: Allowed) -> Callable[[bytes], None]:
    """A function that checks whether `unsigned_loader` can read what this process has just written. Raises what the loader raises.

    It runs in the worker for most changed states, so it is fast: it uses the slow loader only for a pickle with a name that no earlier
    pickle had.
    """
    find, load = _remembering(allowed), unsigned_loader(allowed)
    proved: set[tuple[str, str]] = set()

    class Checking(pickle.Unpickler):
        def __init__(self, data: bytes, new: set[tuple[str, str]]) -> None:
            super().__init__(BytesIO(data))
            self.new = new

        def find_class(self, module: str, name: str) -> Any:
            if (module, name) not in proved:
                self.new.add((module, name))
            return find(module, name)

    def check(data: bytes) -> None:
        new: set[tuple[str, str]] = set()
        Checking(data, new).load()
        if new:
            load(data)
            proved.update(new)

    return check


def _remembering(allowed: Allowed) -> Callable[[str, str], Any]:
    # Only allowed names are cached, so the cache is bounded.
    known: dict[tuple[str, str], Any] = {}

    def find(module: str, name: str) -> Any:
        try:
            return known[module, name]
        except KeyError:
            found = known[module, name] = allowed.find(module, name)
            if isinstance(found, type) and found not in PLAIN_CLASSES:
                allowed.classes.add(found)
            return found

    return find


def load_and_list(data: bytes) -> tuple[Any, list[tuple[str, str]]]:
    """Unpickle bytes that this process has just written, without restrictions. Returns the object, and the names in the pickle."""
    names: list[tuple[str, str]] = []

    class Listing(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.append((module, name))
            return super().find_class(module, name)

    return Listing(BytesIO(data)).load(), names


def copied(value: Any) -> Any:
    """A deep copy, made by pickling without restrictions, or by `deepcopy` if the value can't be pickled."""
    try:
        return pickle.loads(pickle.dumps(value, 5))  # three times as fast as deepcopy
    except Exception:
        return copy.deepcopy(value)


def _own_modules(cls: type) -> dict[str, str]:
    """The state class's module: its name in pickles → its name in this process."""
    own = cls.__module__
    if own.partition(".")[0] in sys.stdlib_module_names:
        return {}  # `state=dict` allows only dict, not all of builtins
    if own == "__main__":
        script = getattr(sys.modules["__main__"], "__file__", None)
        spec = getattr(sys.modules["__main__"], "__spec__", None)
        imported_as = spec.name if spec is not None else Path(script).stem if script else own
        return {own: own, imported_as: own}
    return {own: own, "__main__": own}


def _imported(module: str, name: str) -> types.ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise NotAllowed(module, name, f"which can't be imported ({error})") from error


def _class_in(module: types.ModuleType | None, name: str) -> type | None:
    """The class that a module defines under that name (also `Outer.Inner`). None if the module only imports or inherits it."""
    found: Any = module
    for part in name.split("."):
        found = getattr(found, "__dict__", {}).get(part)
        if not isinstance(found, type):
            return None
    defined_here = found.__module__ == getattr(module, "__name__", None) and found.__qualname__ == name
    return found if defined_here else None


def _anything_in(module: str, name: str) -> Any:
    found: Any = _imported(module, name)
    try:
        for part in name.split("."):
            found = getattr(found, part)
    except AttributeError as error:
        raise NotAllowed(module, name, "which does not exist") from error
    return found
