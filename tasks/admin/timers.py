"""The timers of a key, for operators: list them, and cancel one."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, cast

import msgspec

from celery_partitions.admin.audit import shortened
from celery_partitions.admin.state_editor import Answer, SeenState, StateEditor
from celery_partitions.model.computation import Computation
from celery_partitions.model.errors import StateError
from celery_partitions.model.keys import key_bytes, normalize_key
from celery_partitions.model.schedules import describe_schedule
from celery_partitions.model.timers import NO_TIMERS, Entries, TimerEntry, key_of_alarm
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
    normalized = normalize_key(key)
    partition = str(states.topology.partition_of(normalized))
    wanted = [each for one in computations if one.state is not None for each in (*map(one.before, one.formerly), one)]
    with states.client.pipeline(transaction=False) as pipe:
        for one in wanted:
            pipe.hget(states.names.states(partition, one.name), cast(str, key_bytes(normalized)))
        records = pipe.execute()
    return [timer for one, stored in zip(wanted, records, strict=True) for timer in timers_in(states, one, stored)]


@dataclass(frozen=True, slots=True)
class PartitionTimer:
    """A timer of a partition, with its key. A timer that is moved often may ring before it is due, and then rings again."""

    key: str
    timer: KeyTimer
    #: When the partition wakes up for it, in seconds since the epoch: when it is due, or before.
    rings: float


def timers_in_partition(
    states: StateReader, computations: Mapping[str, Computation], partition: str, start: int = 0, limit: int = 100
) -> tuple[list[PartitionTimer], int | None]:
    """The timers of a partition, those that ring first first, and where to go on; None at the end. `computations`: by task name.

    `start` and `limit` count delayed messages and timers together, also those that were cancelled, so it may return fewer. Unpickles and verifies
    nothing. Leaves out what a task that this process does not know has set.
    """
    names, found = states.names, []
    entries: Any = states.client.zrange(names.delayed(partition), start, start + limit, withscores=True)
    for entry, rings in entries[:limit]:
        key = key_of_alarm(entry)
        handler = None if key is None else computations.get(msgspec.json.decode(entry[1 : entry.index(b"\n")]))
        if key is not None and handler is not None and handler.owner is not None:
            found.append((key, handler, handler.owner, rings / 1000))
    with states.client.pipeline(transaction=False) as pipe:
        for key, _, owner, _ in found:
            for name in (*owner.formerly, owner.name):
                pipe.hget(names.states(partition, name), cast(str, key_bytes(key)))
        records = iter(pipe.execute(raise_on_error=False))
    timers = []
    for key, handler, owner, rings in found:
        stored = [one for one in (next(records) for _ in (*owner.formerly, owner.name)) if isinstance(one, bytes)]
        try:
            entry = (states.codec.timers(stored[-1]) or NO_TIMERS).get(handler.timer) if stored else None
        except StateError:
            entry = None
        if entry is not None:
            timers.append(PartitionTimer(key, KeyTimer.of(owner, handler.timer, entry), rings))
    return timers, start + limit if len(entries) > limit else None


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
