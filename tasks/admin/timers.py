"""The timers of a key, for operators: list them, and cancel one."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from celery_partitions.admin.audit import shortened
from celery_partitions.admin.state_editor import Answer, SeenState, StateEditor
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes, normalize_key
from celery_partitions.model.schedules import describe_schedule
from celery_partitions.model.timers import NO_TIMERS, Entries, TimerEntry
from celery_partitions.store.states import StateReader


@dataclass(frozen=True, slots=True)
class KeyTimer:
    """A timer that is set."""

    computation: str
    #: "": the expiry of `ttl=`.
    name: str
    #: Seconds since the epoch, by the server's clock.
    due: float
    #: How it repeats itself, for people. None: it fires once.
    repeats: str | None
    message: Any
    #: Whether this process knows its handler. Without one, its messages wait as those of an unknown task.
    has_handler: bool

    @classmethod
    def of(cls, computation: Computation, name: str, entry: TimerEntry) -> KeyTimer:
        repeats = None if entry.schedule is None else describe_schedule(entry.schedule)
        message = msgspec.json.decode(entry.message) if entry.message else None
        return cls(computation.name, name, entry.due / 1000, repeats, message, name in computation.handlers)


def timers_in(states: StateReader, computation: Computation, stored: bytes | None) -> list[KeyTimer]:
    """The timers in a key's record, by when they are due. Verifies no signature. Raises `StateError` for bytes that are not a record."""
    found = NO_TIMERS if stored is None else states.codec.timers(stored) or NO_TIMERS
    return sorted((KeyTimer.of(computation, name, entry) for name, entry in found.items()), key=lambda one: (one.due, one.name))


def timers_of(states: StateReader, computations: Iterable[Computation], key: object) -> list[KeyTimer]:
    """The timers of a key, in all computations. Raises `StateError` for a record that can't be read."""
    spelled = normalize_key(key)
    partition = str(states.topology.partition_of(spelled))
    wanted = [each for one in computations if one.state is not None for each in (*map(one.before, one.formerly), one)]
    with states.client.pipeline(transaction=False) as pipe:
        for one in wanted:
            pipe.hget(states.names.states(partition, one.name), cast(str, key_bytes(spelled)))
        records = pipe.execute()
    return [timer for one, stored in zip(wanted, records, strict=True) for timer in timers_in(states, one, stored)]


def cancel_timer(editor: StateEditor, seen: SeenState, name: str, *, by: str) -> Answer:
    """Cancel a timer of a key. Returns `changed`, and writes nothing, if the key's record changed meanwhile.

    Raises `StateError` if the timer is not set, or if the record is signed and this process has no key.
    """
    codec = editor.states.codec
    entries = Entries() if seen.stored is None else codec.timers(seen.stored) or Entries()
    if seen.stored is None or name not in entries:
        raise StateError(f"the timer {name!r:.80} of {seen.computation.name!r} is not set for this key")
    entry = entries.pop(name)
    record = codec.with_timers(seen.computation, seen.key, seen.stored, entries)
    detail = {"timer": name, "due": entry.due / 1000, "message": shortened(msgspec.json.decode(entry.message) if entry.message else None)}
    return editor.write(seen, record, "cancel timer", detail, by=by)
