"""What the pickle of a state may name: the restricted unpickler.

A pickle is a program: it imports what it names and calls it. So a state's pickle may name the state class's own module,
what the application allows (STATE_MODULES) and plain data types, and of modules only classes that are defined there:
`shop`, `os.system` does not reach through `import os` to the system, nor does a function of `shop` run. A signature does
not widen this.

`STATE_MODULES=*` lifts this: whatever an imported module has may be named. Only with a signing key, and for a run all of whose
processes have one source: who can sign can then run anything.

Not guarded against: waste of memory and time, and attributes set on those classes, by one who can forge states. Only a
signature keeps him out.
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
import operator
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

_PATHS = (pathlib.PurePosixPath, pathlib.PureWindowsPath, pathlib.PosixPath, pathlib.WindowsPath)
_PLAIN_CLASSES: tuple[type, ...] = (
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


def _member(owner: Any, name: str) -> Any:
    """What stands for `getattr`, by which Python 3.11 pickles Enum members and all pickle a ZoneInfo; and no more."""
    if isinstance(owner, enum.EnumMeta):
        return owner.__members__[name]
    if owner is zoneinfo.ZoneInfo and name == "_unpickle":
        return zoneinfo.ZoneInfo._unpickle  # type: ignore[attr-defined]
    raise NotAllowed("builtins", "getattr")


#: (module, name) as pickles write them → what is found there, in every state.
PLAIN: dict[tuple[str, str], Any] = {
    **{(cls.__module__, cls.__qualname__): cls for cls in _PLAIN_CLASSES},
    # As Python 3.12 and older wrote them: the module has moved since.
    **{("pathlib", cls.__qualname__): cls for cls in _PATHS},
    ("builtins", "Ellipsis"): ...,
    ("builtins", "NotImplemented"): NotImplemented,
    ("builtins", "getattr"): _member,
    # How copyreg and C extensions rebuild an object: each calls only what it is given, and that was looked over too.
    ("copyreg", "_reconstructor"): copyreg._reconstructor,  # type: ignore[attr-defined]
    ("copyreg", "__newobj__"): copyreg.__newobj__,  # type: ignore[attr-defined]
    ("copyreg", "__newobj_ex__"): copyreg.__newobj_ex__,  # type: ignore[attr-defined]
    ("array", "_array_reconstructor"): array._array_reconstructor,  # type: ignore[attr-defined]
    ("_operator", "or_"): operator.or_,  # Python 3.11's Flag members
    ("msgspec._utils", "rebuild"): lambda cls, arguments: cls(**arguments),  # a Struct with keyword-only fields
    ("msgspec._core", "UNSET"): msgspec.UNSET,
}


#: The entry of STATE_MODULES that allows all that is imported.
EVERYTHING = "*"


class NotAllowed(pickle.UnpicklingError):
    """A pickle names what its state may not. `allow`: the entry of STATE_MODULES that would let it."""

    def __init__(self, module: str, name: str, why: str = "which is neither plain data nor allowed") -> None:
        found = _class_in(sys.modules.get(module), name)
        self.allow = module if found is not None else f"{module}:{name}"
        super().__init__(f"it names {module}.{name}, {why}. If your states are made of it: STATE_MODULES={self.allow}")


class Allowed:
    """What the pickles of one state class may name.

    `modules`: entries of STATE_MODULES. `shop.models`: the classes defined there; `shop.*`: those of the package's modules
    that are imported; `shop.models:rebuild`: that one thing, a function too; `*`: anything that an imported module has.
    """

    def __init__(self, cls: type, modules: Iterable[str] = ()) -> None:
        modules = tuple(modules)
        self.cls = cls
        self._anything = EVERYTHING in modules
        self._names = {entry for entry in modules if ":" in entry}
        self._packages = tuple(entry.removesuffix(".*") for entry in modules if entry.endswith(".*"))
        self._modules = {entry: entry for entry in modules if not entry.endswith(".*") and ":" not in entry}
        self._modules |= _own_modules(cls)

    def find(self, module: str, name: str) -> Any:
        """What a pickle means by a name. Raises `NotAllowed`."""
        plain = PLAIN.get((module, name), self)
        if plain is not self:
            return plain
        own = self.cls.__module__
        if name == self.cls.__qualname__ and (module == own or "__main__" in (module, own)):
            return self.cls  # a script's class is `__main__`'s here, and its module's in a worker
        if f"{module}:{name}" in self._names:
            return _anything_in(module, name)
        if self._anything and module in sys.modules:
            return _anything_in(module, name)
        where = self._modules.get(module)
        if where is not None:
            found = _class_in(_imported(where, name), name)
            if found is None:
                raise NotAllowed(module, name, "which is no class defined in that module")
            return found
        if any(module == package or module.startswith(f"{package}.") for package in self._packages):
            # Importing runs code: of a whole package only what the application imports itself.
            found = _class_in(sys.modules.get(module), name)
            if found is None:
                raise NotAllowed(module, name, "which is no class defined in an imported module")
            return found
        raise NotAllowed(module, name)


def restricted_loader(allowed: Allowed) -> Callable[[bytes], Any]:
    """`pickle.loads` for the states of one class. Raises `NotAllowed`, and what pickle raises."""
    # Only what was allowed is remembered: at most what there is.
    known: dict[tuple[str, str], Any] = {}

    class Restricted(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            try:
                return known[module, name]
            except KeyError:
                found = known[module, name] = allowed.find(module, name)
                return found

    return lambda data: Restricted(BytesIO(data)).load()


def load_and_list(data: bytes) -> tuple[Any, list[tuple[str, str]]]:
    """Unpickle our own bytes of a moment ago, whatever they name; the object, and the names."""
    names: list[tuple[str, str]] = []

    class Listing(pickle.Unpickler):
        def find_class(self, module: str, name: str) -> Any:
            names.append((module, name))
            return super().find_class(module, name)

    return Listing(BytesIO(data)).load(), names


def copied(value: Any) -> Any:
    """A value that nobody else has: unpickled from our own bytes of a moment ago, whatever they name."""
    try:
        return pickle.loads(pickle.dumps(value, 5))  # three times as fast as deepcopy, where it can be pickled
    except Exception:
        return copy.deepcopy(value)


def _own_modules(cls: type) -> dict[str, str]:
    """The state class's module as pickles name it → as it is imported here."""
    own = cls.__module__
    if own.partition(".")[0] in sys.stdlib_module_names:
        return {}  # `state=dict` allows nothing of builtins but dict
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
    """The class that is defined in a module by that name (`Outer.Inner` too); not what is imported there, or inherited."""
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
        raise NotAllowed(module, name, "which is not there") from error
    return found
