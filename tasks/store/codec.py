"""Converts states to bytes and back: a pickle (protocol 5) inside a record (`record`), signed if there is a signing key.

With a signing key, nothing is unpickled before its signature is verified (law 8). Even then a pickle may name only plain data
and allowed classes (`celery_partitions.model.restricted_pickle`).
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import msgspec

from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import MigrationFailed, StateError, describe
from celery_partitions.model.inside_defaults import InsideDefaults
from celery_partitions.model.message_writer import json_text
from celery_partitions.model.old_states import AsData, migrated
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
from celery_partitions.model.timers import Entries, TimerEntry
from celery_partitions.model.values import is_exact
from celery_partitions.model.versions import FIRST
from celery_partitions.store.record import (
    HEADER,
    SIGNED,
    SIGNED_JSON,
    TIMERS,
    UNSIGNED,
    UNSIGNED_JSON,
    VERSION,
    Kind,
    Record,
    Signer,
    head_of,
    split,
    version_in,
)

#: The opcode with which a pickle (protocol 4 and later) names something. Data can contain the same byte, so the count of this byte is an
#: upper bound for the number of names.
NAMING = b"\x93"


Loaders = dict[StateClass[Any], Callable[[bytes], Any]]
MakeLoader = Callable[[Allowed], Callable[[bytes], Any]]


@dataclass(frozen=True, slots=True)
class StoredMeta:
    """What stored bytes show without being unpickled."""

    bytes: int
    #: `signed`, `unsigned`, or `unknown` (not written by celery-partitions).
    form: str
    #: Whether one of this process's keys made the signature. None if there is no signature, or this process has no key.
    verified: bool | None


class StateCodec:
    """Writes and reads states in one process. `signing_keys`: the first signs, all verify; without any, states are unsigned.

    `state_modules`: what states may contain besides plain data and classes of their own module (PARTITIONS_STATE_MODULES).
    `group`: the prefix of the group's queues. A state that another group signed is refused.
    """

    def __init__(
        self, signing_keys: tuple[bytes, ...] = (), state_modules: tuple[str, ...] = (), group: str = ""
    ) -> None:
        self._keys, self._group = signing_keys, group
        self._signers: dict[tuple[Kind, str], Signer] = {}
        # An unsigned state may never name everything.
        self._modules = (
            state_modules if signing_keys else tuple(entry for entry in state_modules if entry != EVERYTHING)
        )
        self._loader: MakeLoader = signed_loader if signing_keys else unsigned_loader
        self._check: MakeLoader = signed_loader if signing_keys else readable_check
        self._loaders: Loaders = {}
        self._inside: dict[StateClass[Any], InsideDefaults] = {}
        self._inside_old: dict[StateClass[Any], InsideDefaults] = {}
        #: These raise if a pickle that was just written could not be read back.
        self._checks: Loaders = {}
        #: These read states of older versions.
        self._data_loaders: Loaders = {}
        self._value_loaders: dict[Computation, Callable[[bytes], Any]] = {}
        #: The number of names in a pickle that are known to be readable, so that it needs no check.
        self._harmless: dict[StateClass[Any], int] = {}

    @property
    def has_keys(self) -> bool:
        """Whether states are signed."""
        return bool(self._keys)

    def dump(self, computation: Computation, key: str, state: Any, timers: Entries | None = None) -> bytes:
        """Pickle a state, and add the key's timers. The worker calls this for each changed state of a batch. Raises what pickle raises, and `StateError` for a
        state that could not be read back. Then the message that changed the state fails, and the stored state stays readable."""
        data = pickle.dumps(state, 5)
        wanted = computation.state
        assert wanted is not None
        harmless = self._harmless.get(wanted)
        if harmless is None:
            itself = {(wanted.cls.__module__, wanted.cls.__qualname__), ("msgspec._utils", "rebuild")}
            harmless = self._harmless[wanted] = len(wanted.names) if itself.issuperset(wanted.names) else 0
        if data.count(NAMING) > harmless:
            self._unpickled(computation.name, wanted, data, self._checks, self._check)
        if timers:
            head = getattr(timers, "head", None)
            if not head:
                header = {VERSION: wanted.version, TIMERS: timers} if wanted.is_versioned else {TIMERS: timers}
                head = timers.head = head_of(SIGNED if self._keys else UNSIGNED, header)
            return self._signer("state", computation.name).seal_behind(head, key, data) if self._keys else head + data
        if not self._keys and not wanted.is_versioned:
            return UNSIGNED + data
        return self.seal(computation.name, key, data, {VERSION: wanted.version} if wanted.is_versioned else None)

    def seal(self, name: str, key: str, data: bytes, header: Mapping[str, Any] | None = None) -> bytes:
        """Put a pickle into a record, signed if there is a key."""
        if not self._keys and not header:
            return UNSIGNED + data
        return self._signer("state", name).seal(key, data, header=header)

    def moved(self, name: str, key: str, stored: bytes, group: str) -> bytes:
        """Sign for this group a state that `group` wrote. Raises `StateError` if `group` did not sign it."""
        if not self._keys and stored[:1] == UNSIGNED:
            return stored
        record = self._verified(Signer(self._keys, "state", group, name), key, stored)
        return self._signer("state", name).seal(key, record.payload, header=record.header)

    def load(self, computation: Computation, key: str, stored: bytes) -> Any:
        """Unpickle a stored state. Raises `StateError` for a wrong signature, an unknown format, or a pickle that is damaged or names
        something that is not allowed. Raises `MigrationFailed` if a migration of an older state does."""
        wanted = computation.state
        if wanted is None:
            raise StateError(f"{computation.name!r} has no state")
        data, version = self._opened(computation, key, stored)
        if version != wanted.version:
            return self._migrated(computation.name, wanted, data, version)
        state = self._unpickled(computation.name, wanted, data, self._loaders, self._loader)
        if not (isinstance(state, wanted.cls) or _same_source(type(state), wanted.cls)):
            raise StateError(
                f"state of {computation.name!r} is a {type(state).__qualname__}, but {wanted.cls.__qualname__} is declared"
            )
        self._inside[wanted].complete(state)
        return wanted.complete(state) if wanted.completes else state

    def timers(self, stored: bytes) -> Entries | None:
        """The timers in a record that `load` has read. Verifies no signature."""
        if stored[0] < HEADER:
            return None
        found = split(stored).header.get(TIMERS)
        try:
            return None if found is None else Entries(msgspec.convert(found, dict[str, TimerEntry]))
        except msgspec.ValidationError as error:
            raise StateError(f"the timers in its header can't be read: {error}") from error

    def with_timers(self, computation: Computation, key: str, stored: bytes, timers: Entries) -> bytes:
        """The record with other timers. Raises `StateError` if it can't be verified."""
        self._opened(computation, key, stored)
        record = split(stored)
        header = {one: value for one, value in record.header.items() if one != TIMERS}
        return self.seal(computation.name, key, record.payload, {**header, **({TIMERS: timers} if timers else {})})

    def renewed(self, computation: Computation, key: str, stored: bytes) -> bytes:
        """A stored state as this process would store it, with what else is in its header. Raises as `load` and `dump` do."""
        made = self.dump(computation, key, self.load(computation, key, stored))
        header = split(stored).header if stored[:1] >= b"\x80" else {}
        if header.keys() <= {VERSION}:
            return made
        record = split(made)
        return self.seal(computation.name, key, record.payload, {**header, **record.header})

    def opened(self, name: str, key: str, stored: bytes) -> tuple[bytes, int]:
        """The pickle in a record, and its state's version, after its signature is verified. Unpickles nothing."""
        if not self._keys and stored[:1] == UNSIGNED:
            return stored[1:], FIRST
        record = self._verified(self._signer("state", name), key, stored)
        if len(record.head) == 1:
            return record.payload, FIRST
        try:
            return record.payload, version_in(record.header)
        except StateError as error:
            raise StateError(f"state of {name!r} can't be read: {error}") from error

    def _opened(self, computation: Computation, key: str, stored: bytes) -> tuple[bytes, int]:
        """`opened`, also for a record that was signed under a former name of the computation."""
        try:
            return self.opened(computation.name, key, stored)
        except StateError:
            for name in computation.former_names:
                with suppress(StateError):
                    return self.opened(name, key, stored)
            raise

    def verified(self, name: str, key: str, stored: bytes) -> bytes:
        """The pickle in a record, after its signature is verified. Unpickles nothing."""
        return self.opened(name, key, stored)[0]

    def _migrated(self, name: str, wanted: StateClass[Any], data: bytes, version: int) -> Any:
        """Read a state of another version as data, and migrate it."""
        cls, versions = wanted.cls.__qualname__, wanted.versions
        if version > versions.version:
            raise StateError(
                f"state of {name!r} has version {version}, but this process has version {versions.version} of {cls}. Newer code wrote it: deploy "
                "that code here, too"
            )
        if version < versions.oldest:
            raise StateError(
                f"state of {name!r} has version {version}, but {cls} has no migration to version {versions.oldest}. Add "
                f"@migrates({cls}, to_version={versions.oldest})"
            )
        old = self._unpickled(name, wanted, data, self._data_loaders, self._loader, AsData)
        self._inside_old[wanted].complete(old)
        try:
            return migrated(wanted, old, version)
        except MigrationFailed as error:
            raise MigrationFailed(f"state of {name!r} with version {version}: {error}") from error.__cause__

    def _verified(self, signer: Signer, key: str, stored: bytes, *, json: bool = False) -> Record:
        try:
            record = split(stored)
        except StateError as error:
            raise StateError(f"{signer.what} can't be read: {error}") from error
        if record.form not in (UNSIGNED, SIGNED, *((UNSIGNED_JSON, SIGNED_JSON) if json else ())):
            raise StateError(f"{signer.what} can't be read: it is JSON, which only values between stages may be")
        if record.form in (UNSIGNED, UNSIGNED_JSON):
            if self._keys:
                raise StateError(f"{signer.what} is not signed, but PARTITIONS_STATE_SIGNING_KEY is set: it is not unpickled")
            return record
        if not self._keys:
            raise StateError(f"{signer.what} is signed, but PARTITIONS_STATE_SIGNING_KEY is not set: it is not unpickled")
        if not signer.verifies(key, record):
            raise StateError(f"{signer.what}'s signature is wrong: it is not unpickled")
        return record

    def meta(self, name: str, key: str, stored: bytes, former_names: Iterable[str] = ()) -> StoredMeta:
        """Size and signature of stored bytes. Unpickles nothing and needs no key. `former_names`: of the computation."""
        try:
            record = split(stored)
        except StateError:
            return StoredMeta(len(stored), "unknown", None)
        form = {UNSIGNED: "unsigned", SIGNED: "signed"}.get(record.form, "unknown")
        signers = [self._signer("state", one) for one in (name, *former_names)]
        verified = any(one.verifies(key, record) for one in signers) if form == "signed" and self._keys else None
        return StoredMeta(len(stored), form, verified)

    def _signer(self, kind: Kind, name: str) -> Signer:
        found = self._signers.get((kind, name))
        if found is None:
            # A value in a message may go to another group (a sink's). So it is bound to its message's id, not to the group.
            group = "" if kind == "message" else self._group
            found = self._signers[kind, name] = Signer(self._keys, kind, group, name)
        return found

    def pickling(self) -> Pickling:
        """The functions with which a batch step, which does no I/O, reads and writes states."""
        return Pickling(self.dump, self.load, self.timers, self.dump_value, self.load_value)

    def dump_value(self, task: str, message_id: str, value: Any) -> bytes:
        """Pickle and sign a value for one message of a task. Raises `StateError` without a signing key, and if the value can't be
        pickled."""
        if not self._keys:
            raise StateError("there is no key to sign a pickle with")
        try:
            data = pickle.dumps(value, 5)
        except Exception as error:
            raise StateError(f"it can't be pickled: {describe(error)}") from error
        return self._signer("message", task).seal(message_id, data)

    def load_value(self, computation: Computation, message_id: str, stored: bytes) -> Any:
        """The value that `dump_value` wrote. Raises `StateError` if it can't be read, and always without a signing key."""
        if not self._keys:
            raise StateError("it is pickled, but PARTITIONS_STATE_SIGNING_KEY is not set")
        for name in computation.former_names:  # the message may have been sent before the computation was renamed
            with suppress(StateError):
                return self._unpickled_value(computation, self._verified(self._signer("message", name), message_id, stored).payload)
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
        """A source's position, signed like a state: as JSON if that restores it exactly, else as a pickle. Raises `StateError` if it could
        not be read back."""
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
        """The position that `dump_position` wrote. Raises `StateError` if it can't be read."""
        record = self._verified(self._signer("position", source.name), "", stored, json=True)
        if record.form in (UNSIGNED_JSON, SIGNED_JSON):
            return msgspec.json.decode(record.payload)
        return self._unpickled_value(source, record.payload)

    def _unpickled(
        self, name: str, wanted: StateClass[Any], data: bytes, made: Loaders, make: MakeLoader, allow: type[Allowed] = Allowed
    ) -> Any:
        loads = made.get(wanted)
        if loads is None:
            allowed = allow(wanted.cls, (*self._modules, *wanted.modules))
            loads = made[wanted] = make(allowed)
            if made is not self._checks:
                inside = self._inside if made is self._loaders else self._inside_old
                inside[wanted] = InsideDefaults(wanted.cls, allowed.classes)
        try:
            return loads(data)
        except NotAllowed as error:
            if error.named.rpartition(".")[2] == wanted.cls.__name__:
                raise StateError(
                    f"state of {name!r} was written as {error.named}, which is not the class {wanted.cls.__module__}.{wanted.cls.__qualname__} here. If "
                    f'the class has moved, declare it with @state(formerly="{error.named}"). If not, another program uses the same Redis and '
                    "computation name: give one of them another name, PARTITIONS_GROUP or Redis database"
                ) from error
            raise StateError(f"state of {name!r} is not unpickled: {error}") from error
        except Exception as error:
            raise StateError(f"state of {name!r} can't be unpickled: {describe(error)}") from error


def _same_source(one: type, other: type) -> bool:
    """Whether both are the same class, loaded twice: from a script that is `__main__` here and was imported by name in the worker."""
    return one.__qualname__ == other.__qualname__ and "__main__" in (one.__module__, other.__module__)

