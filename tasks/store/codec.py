"""States as bytes: a pickle (protocol 5) in a record of the engine's own (`record`), signed when there is a secret.

Once a signing key is set nothing is unpickled before its signature was found right (law 8); and then only what names nothing but plain
data and what is allowed (`celery_partitions.model.restricted_pickle`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError, describe
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
from celery_partitions.store.record import SIGNED, SIGNED_JSON, UNSIGNED, UNSIGNED_JSON, Kind, Record, Signer, split

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
    `group`: what the group's queues begin with. A state that another group signed is refused.
    """

    def __init__(
        self, signing_keys: tuple[bytes, ...] = (), state_modules: tuple[str, ...] = (), group: str = ""
    ) -> None:
        self._keys, self._group = signing_keys, group
        self._signers: dict[tuple[Kind, str], Signer] = {}
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

    @property
    def has_keys(self) -> bool:
        """Whether states are signed."""
        return bool(self._keys)

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
        """A pickle as it is stored: in its record, signed when there is a key."""
        if not self._keys:
            return UNSIGNED + data
        return self._signer("state", name).seal(key, data)

    def moved(self, name: str, key: str, stored: bytes, group: str) -> bytes:
        """The bytes of this group for a state that another group wrote. Raises `StateError` for one that it did not sign."""
        if not self._keys and stored[:1] == UNSIGNED:
            return stored
        record = self._verified(Signer(self._keys, "state", group, name), key, stored)
        return self._signer("state", name).seal(key, record.payload, header=record.header)

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
        if not self._keys and stored[:1] == UNSIGNED:
            return stored[1:]
        return self._verified(self._signer("state", name), key, stored).payload

    def _verified(self, signer: Signer, key: str, stored: bytes, *, json: bool = False) -> Record:
        try:
            record = split(stored)
        except StateError as error:
            raise StateError(f"{signer.what} can't be read: {error}") from error
        if record.form not in (UNSIGNED, SIGNED, *((UNSIGNED_JSON, SIGNED_JSON) if json else ())):
            raise StateError(f"{signer.what} has the unknown format byte {record.form.hex()}")
        if record.form in (UNSIGNED, UNSIGNED_JSON):
            if self._keys:
                raise StateError(f"{signer.what} is not signed, and PARTITIONS_STATE_SIGNING_KEY is set: it is not unpickled")
            return record
        if not self._keys:
            raise StateError(f"{signer.what} is signed, and PARTITIONS_STATE_SIGNING_KEY is not set: it is not unpickled")
        if not signer.verifies(key, record):
            raise StateError(f"{signer.what}'s signature is wrong: it is not unpickled")
        return record

    def meta(self, name: str, key: str, stored: bytes) -> StoredMeta:
        """What can be seen of stored bytes, by anyone: unpickles nothing."""
        try:
            record = split(stored)
        except StateError:
            return StoredMeta(len(stored), "unknown", None)
        form = {UNSIGNED: "unsigned", SIGNED: "signed"}.get(record.form, "unknown")
        verified = self._signer("state", name).verifies(key, record) if form == "signed" and self._keys else None
        return StoredMeta(len(stored), form, verified)

    def _signer(self, kind: Kind, name: str) -> Signer:
        found = self._signers.get((kind, name))
        if found is None:
            # A value in a message may go to another group, a sink's: its message's id binds it.
            group = "" if kind == "message" else self._group
            found = self._signers[kind, name] = Signer(self._keys, kind, group, name)
        return found

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
        return self._signer("message", task).seal(message_id, data)

    def load_value(self, computation: Computation, message_id: str, stored: bytes) -> Any:
        """The value that `dump_value` wrote. Raises `StateError`, always without a signing key: unpickles nothing unsigned."""
        if not self._keys:
            raise StateError("it is pickled, and PARTITIONS_STATE_SIGNING_KEY is not set")
        record = self._verified(self._signer("message", computation.name), message_id, stored)
        return self._unpickled_value(computation, record.payload)

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
        """The value that a source has reached, signed as states are: JSON where that gives it back exactly, else a pickle. Raises
        `StateError` for what could not be read back."""
        signer = self._signer("position", source.name)
        if is_exact(value):
            try:
                return signer.seal("", json_text(value), json=True)
            except UnicodeEncodeError:
                pass  # a lone surrogate
        try:
            stored = signer.seal("", pickle.dumps(value, 5))
        except Exception as error:
            raise StateError(f"it can't be pickled: {describe(error)}") from error
        self.load_position(source, stored)
        return stored

    def load_position(self, source: Computation, stored: bytes) -> Any:
        """The value that `dump_position` wrote. Raises `StateError`."""
        record = self._verified(self._signer("position", source.name), "", stored, json=True)
        if record.form in (UNSIGNED_JSON, SIGNED_JSON):
            return msgspec.json.decode(record.payload)
        return self._unpickled_value(source, record.payload)

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


def _same_source(one: type, other: type) -> bool:
    """The same class twice: of a script that is `__main__` here, and was imported by its name in the worker."""
    return one.__qualname__ == other.__qualname__ and "__main__" in (one.__module__, other.__module__)

