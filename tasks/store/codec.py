"""State bytes: one format byte, a signature when there is a key for it, and the pickle (protocol 5).

    01 | pickle                 unsigned
    02 | tag, 16 bytes | pickle  signed

The tag is keyed BLAKE2b over the computation's name, the key and the pickle, each with its length, so a value can't be
moved to another key. Once a signing key is set nothing is unpickled before its tag was found right (law 8); and then
only what names nothing but plain data and what is allowed (`celery_partitions.model.restricted_pickle`).
Source: RFC 7693 (BLAKE2), keyed mode.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import blake2b
from hmac import compare_digest
from typing import Any

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError, describe
from celery_partitions.model.keys import key_bytes
from celery_partitions.model.message_writer import json_text
from celery_partitions.model.outcome import Pickling
from celery_partitions.model.restricted_pickle import (
    EVERYTHING,
    Allowed,
    NotAllowed,
    readable_check,
    signed_loader,
    unsigned_loader,
)
from celery_partitions.model.state import StateClass
from celery_partitions.model.values import is_exact

UNSIGNED = b"\x01"
SIGNED = b"\x02"
#: Of a position only: JSON, which needs no signature, because nothing runs when it is read.
JSON = b"\x03"
TAG_BYTES = 16

#: The opcode by which a pickle of protocol 4 and later names something. Data may have that byte too, so there are
#: at most as many names in a pickle as there are of these.
NAMING = b"\x93"


Loaders = dict[StateClass[Any], Callable[[bytes], Any]]
MakeLoader = Callable[[Allowed], Callable[[bytes], Any]]


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """What can be said of stored bytes without unpickling them."""

    bytes: int
    #: `signed`, `unsigned`, or `unknown` (not written by this product).
    form: str
    #: Whether one of this process's signing keys made the signature; None where there is no signature, or no key here.
    verified: bool | None


class StateCodec:
    """Bytes of states for one process; `signing_keys`: the first signs, all verify, none means unsigned.

    `state_modules`: what states may be made of beside plain data and their own module's classes (PARTITIONS_STATE_MODULES).
    """

    def __init__(self, signing_keys: tuple[bytes, ...] = (), state_modules: tuple[str, ...] = ()) -> None:
        # BLAKE2b takes keys of up to 64 bytes; a longer secret is hashed to that.
        self._keys = tuple(key if len(key) <= 64 else blake2b(key).digest() for key in signing_keys)
        # What is not signed may never name whatever it likes.
        self._modules = (
            state_modules if signing_keys else tuple(entry for entry in state_modules if entry != EVERYTHING)
        )
        self._loader: MakeLoader = signed_loader if signing_keys else unsigned_loader
        self._check: MakeLoader = signed_loader if signing_keys else readable_check
        self._loaders: Loaders = {}
        #: Raise when a pickle that was just written could not be read back.
        self._checks: Loaders = {}
        self._value_loaders: dict[Computation, Callable[[bytes], Any]] = {}
        #: How many names a pickle may have of which it is known beforehand that they can be read back.
        self._harmless: dict[StateClass[Any], int] = {}

    def dump(self, computation: Computation, key: str, state: Any) -> bytes:
        """Called for each changed state of a batch, in the worker. Raises what pickle raises, and `StateError` for a state
        that could not be read back: then the message that made it so fails, and what is stored stays readable."""
        data = pickle.dumps(state, 5)
        wanted = computation.state
        assert wanted is not None
        harmless = self._harmless.get(wanted)
        if harmless is None:
            only_itself = wanted.names == [(wanted.cls.__module__, wanted.cls.__qualname__)]
            harmless = self._harmless[wanted] = int(only_itself)
        if data.count(NAMING) > harmless:
            self._unpickled(computation.name, wanted, data, self._checks, self._check)
        return self.seal(computation.name, key, data)

    def seal(self, name: str, key: str, data: bytes) -> bytes:
        """A pickle as it is stored: with its format byte, and its signature when there is a key."""
        if not self._keys:
            return UNSIGNED + data
        return SIGNED + _tag(self._keys[0], name, key, data) + data

    def load(self, computation: Computation, key: str, stored: bytes) -> Any:
        """The state object in `stored`. Raises `StateError` for a wrong tag, unknown format, or a pickle that is bad or
        names what it may not."""
        data = self.verified(computation.name, key, stored)
        wanted = computation.state
        if wanted is None:
            raise StateError(f"{computation.name!r} has no state")
        state = self._unpickled(computation.name, wanted, data, self._loaders, self._loader)
        if not (isinstance(state, wanted.cls) or _same_source(type(state), wanted.cls)):
            raise StateError(f"state of {computation.name!r} is a {type(state).__qualname__}, not what is declared")
        return wanted.complete(state) if wanted.completes else state

    def verified(self, name: str, key: str, stored: bytes) -> bytes:
        """The pickle inside, once its tag is right. Unpickles nothing."""
        form = stored[:1]
        if form == UNSIGNED:
            if self._keys:
                raise StateError("the state is not signed, and PARTITIONS_STATE_SIGNING_KEY is set: it is not unpickled")
            return stored[1:]
        if form != SIGNED:
            raise StateError(f"the state has the unknown format byte {form.hex() or 'nothing'}")
        if not self._keys:
            raise StateError("the state is signed, and PARTITIONS_STATE_SIGNING_KEY is not set: it is not unpickled")
        data = stored[1 + TAG_BYTES :]
        if not self._signed_by_us(name, key, stored):
            raise StateError("the state's signature is wrong: it is not unpickled")
        return data

    def meta(self, name: str, key: str, stored: bytes) -> StoredMeta:
        """What can be seen of stored bytes, by anyone: unpickles nothing."""
        form = {UNSIGNED: "unsigned", SIGNED: "signed"}.get(stored[:1], "unknown")
        verified = self._signed_by_us(name, key, stored) if form == "signed" and self._keys else None
        return StoredMeta(len(stored), form, verified)

    def pickling(self) -> Pickling:
        """What the pure step is given."""
        return Pickling(self.dump, self.load, self.dump_value, self.load_value)

    def dump_value(self, task: str, message_id: str, value: Any) -> bytes:
        """A value for the message of an id to a task, as a signed pickle. Raises `StateError` without a signing key, and for what
        can't be pickled."""
        if not self._keys:
            raise StateError("there is no key to sign a pickle with")
        try:
            data = pickle.dumps(value, 5)
        except Exception as error:
            raise StateError(f"it can't be pickled: {describe(error)}") from error
        return self.seal(_of_messages(task), message_id, data)

    def load_value(self, computation: Computation, message_id: str, stored: bytes) -> Any:
        """The value that `dump_value` wrote. Raises `StateError`, always without a signing key: unpickles nothing unsigned."""
        if not self._keys:
            raise StateError("it is pickled, and PARTITIONS_STATE_SIGNING_KEY is not set")
        return self._unpickled_value(computation, self.verified(_of_messages(computation.name), message_id, stored))

    def _unpickled_value(self, computation: Computation, data: bytes) -> Any:
        loads = self._value_loaders.get(computation)
        if loads is None:
            allowed = Allowed(object, (*self._modules, *computation.modules))
            loads = self._value_loaders[computation] = self._loader(allowed)
        try:
            return loads(data)
        except Exception as error:
            raise StateError(f"it can't be unpickled: {describe(error)}") from error

    def dump_position(self, source: Computation, value: Any) -> bytes:
        """The value that a source has reached: JSON where that gives it back exactly, else a pickle, as states are. Raises `StateError`
        for what could not be read back."""
        if is_exact(value):
            try:
                return JSON + json_text(value)
            except UnicodeEncodeError:
                pass  # a lone surrogate
        try:
            stored = self.seal(_of_positions(source.name), "", pickle.dumps(value, 5))
        except Exception as error:
            raise StateError(f"it can't be pickled: {describe(error)}") from error
        self.load_position(source, stored)
        return stored

    def load_position(self, source: Computation, stored: bytes) -> Any:
        """The value that `dump_position` wrote. Raises `StateError`."""
        if stored[:1] == JSON:
            return msgspec.json.decode(stored[1:])
        return self._unpickled_value(source, self.verified(_of_positions(source.name), "", stored))

    def _signed_by_us(self, name: str, key: str, stored: bytes) -> bool:
        tag, data = stored[1 : 1 + TAG_BYTES], stored[1 + TAG_BYTES :]
        return any(compare_digest(tag, _tag(secret, name, key, data)) for secret in self._keys)

    def _unpickled(self, name: str, wanted: StateClass[Any], data: bytes, made: Loaders, make: MakeLoader) -> Any:
        loads = made.get(wanted)
        if loads is None:
            loads = made[wanted] = make(Allowed(wanted.cls, (*self._modules, *wanted.modules)))
        try:
            return loads(data)
        except NotAllowed as error:
            raise StateError(f"state of {name!r} is not unpickled: {error}") from error
        except Exception as error:
            raise StateError(f"state of {name!r} can't be unpickled: {describe(error)}") from error


def _of_messages(task: str) -> str:
    """The scope of signatures of values, which no computation's states can have: a name has no NUL."""
    return f"message\0{task}"


def _of_positions(source: str) -> str:
    """The scope of signatures of what a source has reached."""
    return f"position\0{source}"


def _same_source(one: type, other: type) -> bool:
    """The same class twice: of a script that is `__main__` here, and was imported by its name in the worker."""
    return one.__qualname__ == other.__qualname__ and "__main__" in (one.__module__, other.__module__)


def _tag(secret: bytes, name: str, key: str, data: bytes) -> bytes:
    scope, spelled = name.encode(), key_bytes(key)
    head = b"%d:%b%d:%b" % (len(scope), scope, len(spelled), spelled)
    return blake2b(head + data, digest_size=TAG_BYTES, key=secret).digest()
