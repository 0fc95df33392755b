"""Pickles made of opcodes, and a check that reading one changes nothing in the process.

`python -m tests.fuzz.pickle_programs LOADER SECONDS` reads random programs with the loader `signed` or `unsigned`. It exits
with 1 if one changed a class, a function, a module or a shared object. `signed` must find a change, which shows that the
check works.
"""

from __future__ import annotations

import builtins
import collections
import enum
import fractions
import os
import pathlib
import pickle
import random
import sys
import time
import types
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery_partitions.model import guarded_pickle, restricted_pickle
from celery_partitions.model.restricted_pickle import PLAIN, Allowed, signed_loader, unsigned_loader
from tests.model import pickled
from tests.model.pickled import State

OWN = State.__module__


def text(value: str) -> bytes:
    return b"\x8c" + bytes([len(value.encode())]) + value.encode()


def named(module: str, name: str) -> bytes:
    return text(module) + text(name) + b"\x93"


_NAMES = [
    "__new__",
    "__init__",
    "__reduce_ex__",
    "__setstate__",
    "__class__",
    "__dict__",
    "__call__",
    "__code__",
    "__defaults__",
]
_NAMES += ["append", "extend", "add", "value", "_value_", "read_bytes", "limit", "only", "only.limit", "__eq__"]
_OWN = [
    "State",
    "State.Inner",
    "Unit",
    "Right",
    "Keywords",
    "Other",
    "Shared",
    "Sender",
    "Callable",
    "Collecting",
    "Price",
    "Row",
]
_OWN += ["Slotted", "PlainSlots", "Rows", "Book", "Failure", "Positional", "function", "os"]
_VALUES = [
    b"N",
    b"\x88",
    b"K\x05",
    b"G?\xf8\x00\x00\x00\x00\x00\x00",
    b"]",
    b"}",
    b")",
    b"\x8f",
    b"C\x01x",
    text("eur"),
    text("a"),
]
_CLASSES = [named(OWN, name) for name in _OWN] + [named(module, name) for module, name in PLAIN]

#: The pieces of a program; two bytes choose one. The later ones are typical for attacks.
PIECES: list[bytes] = [
    *_CLASSES,
    *_VALUES,
    *map(text, _NAMES),
    *(b"(", b"\x94", b"0", b"1", b"2", b"h\x00", b"h\x01", b"h\x02", b"h\x03"),
    *(b"\x85", b"\x86", b"\x87", b"t", b"a", b"e", b"s", b"u", b"\x90", b"\x91"),
    *(b"R", b"\x81", b"\x92", b"b", b"o", b")R", b")\x81", b")\x81\x94", b"\x85R", b"\x86R", b"\x86b"),
    *(named(OWN, name) + b")\x81" for name in _OWN),
    *(named(OWN, name) + b")R" for name in _OWN),
    *(named(OWN, "Unit") + text("eur") + b"\x85R" for _ in range(4)),
    *(b"}" + text(name) + b"h\x00sb" for name in _NAMES),  # set an attribute by __dict__
    *(b"N}" + text(name) + b"h\x00s\x86b" for name in _NAMES),  # and with setattr
    *(b"N}" + text(name) + b"K\x05s\x86b" for name in _NAMES),
]


def program(choices: bytes) -> bytes:
    """A pickle of protocol 5. Two bytes choose each piece."""
    pieces = (PIECES[int.from_bytes(choices[at : at + 2], "big") % len(PIECES)] for at in range(0, len(choices) - 1, 2))
    return b"\x80\x05" + b"".join(pieces) + b"."


_CLASSES_WATCHED = [value for value in vars(pickled).values() if isinstance(value, type)]
_CLASSES_WATCHED += [value for value in PLAIN.values() if isinstance(value, type)] + [
    State.Inner,
    type,
    enum.Enum,
    enum.EnumMeta,
]
_MODULES_WATCHED = [pickled, builtins, os, pickle, collections, fractions, pathlib, sys, restricted_pickle, guarded_pickle]
#: Caches that normal use fills.
_CACHES = {"__warningregistry__", "_value2member_map_", "__abc_impl", "_abc_impl", "__annotations_cache__", "__static_attributes__"}
_CHANGING = {(sys, "last_value"), (sys, "last_exc"), (sys, "last_traceback"), (sys, "last_type"), (builtins, "_")}


def process() -> dict[tuple[Any, ...], int]:
    """Everything that no pickle may change: place → identity of the object there."""
    found: dict[tuple[Any, ...], int] = {}
    shared: list[Any] = [*_CLASSES_WATCHED, *_MODULES_WATCHED, *pickled.Unit, *pickled.Right, pickled.Shared.only]
    for owner in shared:
        for name, value in vars(owner).items():
            if name in _CACHES or (owner in (sys, builtins) and (owner, name) in _CHANGING):
                continue
            found[id(owner), name] = id(value)
            if isinstance(value, types.FunctionType):
                found[id(owner), name, "code"] = id(value.__code__)
                found[id(owner), name, "defaults"] = id(value.__defaults__)
                found[id(owner), name, "attributes"] = len(value.__dict__)
    return found


#: Programs between two checks of the process: a check costs as much as some hundred programs.
AT_ONCE = 200


def loader(make: Callable[[Allowed], Callable[[bytes], Any]]) -> Callable[[bytes], Any]:
    return make(Allowed(State, (f"{OWN}:function",)))


def read(load: Callable[[bytes], Any], data: bytes) -> None:
    with suppress(Exception), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        load(data)


def changes(before: dict[tuple[Any, ...], int]) -> list[tuple[Any, ...]]:
    """The places where the process has changed."""
    now = process()
    return [where for where in now.keys() | before.keys() if now.get(where) != before.get(where)]


def main(which: str, seconds: float) -> int:
    pickled.Shared()
    load = loader(signed_loader if which == "signed" else unsigned_loader)
    rng = random.Random(1)
    before, until, count = process(), time.monotonic() + seconds, 0
    while time.monotonic() < until:
        programs = [program(rng.randbytes(2 * rng.randint(1, 12))) for _ in range(AT_ONCE)]
        for data in programs:
            read(load, data)
        count += AT_ONCE
        if changed := changes(before):
            print(f"One of these changed the process at {changed}:", *programs, sep="\n")
            return 1
    print(f"{count} programs changed nothing")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], float(sys.argv[2])))
