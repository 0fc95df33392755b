"""A computation that holds the interpreter lock, so that no thread of its process can renew a lease."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

from celery_partitions import app, key_extractor, state_computation
from tests.support.applications.sequences import Sequence

__all__ = ["Freeze", "app", "freeze"]

#: Unlike `CDLL`, calls through `PyDLL` keep the interpreter's lock.
_c_library = ctypes.PyDLL(None)


@dataclass
class Freeze:
    key: str
    number: int
    seconds: float


@key_extractor
def freeze_key(message: Freeze) -> str:
    return message.key


@state_computation(name="freeze", state=Sequence, key=freeze_key)
def freeze(message: Freeze, state: Sequence) -> None:
    _c_library.usleep(int(message.seconds * 1_000_000))
    state.numbers.append(message.number)
