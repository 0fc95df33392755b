"""Named timers of a key: `context.timers`, and what a handler receives.

The truth is in the key's record: name → when it is due. An *alarm* in the partition's sorted set only wakes the partition: it becomes a message
(a *firing*) on the queue. When the firing's turn comes, the record decides. If the timer was cancelled, nothing happens; if it was moved, the alarm
is set again. So a cancel that was committed before always wins, and a timer that is moved with every message sets no new alarm.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast
from zoneinfo import ZoneInfo

import msgspec

from celery_partitions.model.effects import Alarm
from celery_partitions.model.keys import key_text
from celery_partitions.model.message_writer import escape_header, json_text
from celery_partitions.model.schedules import CatchUp, Schedule, after_firing, next_due, schedule_of

if TYPE_CHECKING:
    from celery_partitions.model.computation import Computation
    from celery_partitions.model.outbox import Outbox
    from celery_partitions.model.outcome import Slot, Unreadable

#: A key's record holds its timers, so they must be few and small.
MAX_TIMERS = 1000
MAX_MESSAGE_BYTES = 10_000
#: Milliseconds. Celery's own limit for an eta is the year 9999.
MAX_DUE = 253_402_300_799_000
#: A time in seconds, as a float, is exact to less than this.
FLOAT_ERROR_MS = 0.0005


class TimerEntry(msgspec.Struct, array_like=True, omit_defaults=True, gc=False, frozen=True):
    """A timer in a key's record. Times in ms, by the server's clock."""

    due: int
    #: When the alarm rings that was set for it: at `due` or before.
    alarm: int
    #: The JSON of its message.
    message: bytes = b""
    #: For a timer that repeats itself.
    schedule: Schedule | None = None


class Entries(dict[str, TimerEntry]):
    """The timers of a key, by name. Never changed: a change makes a new one. So `head`, which the codec made of it, stays right."""

    __slots__ = ("head",)
    #: The beginning of the record. Empty or not set: not encoded yet. A move sets it to be empty, because looking at what is not set takes
    #: longer than the rest of a move.
    head: bytes


NO_TIMERS = Entries()
#: The name of the timer of `ttl=`.
EXPIRY = ""


@dataclass(frozen=True, slots=True)
class Timer:
    """A timer that fires, as its handler receives it."""

    name: str
    #: When it was due, and when it fires, by the server's clock. The first is never later.
    due: datetime
    fired: datetime
    #: What was given to `set` or `every` as `message=`, after JSON.
    message: Any = None


def alarm_entry(computation: str, key: str) -> bytes:
    """An alarm in the sorted set of delayed messages. `computation`: the timer's handler."""
    return b"@" + json_text(computation) + b"\n" + escape_header(key)


def key_of_alarm(entry: bytes) -> str | None:
    """The key of an alarm in the sorted set. None for an entry that is a message."""
    if not entry.startswith(b"@"):
        return None
    value = msgspec.json.decode(entry.partition(b"\n")[2])
    return value if isinstance(value, str) else key_text(base64.b64decode(value["base64"]))


class OpenTimers(dict[str, "Timers"]):
    """The timers of a computation's keys in one step, opened when they are first used. `slots`: the keys' records. `now`: in seconds."""

    __slots__ = ("after", "computation", "due", "now", "outbox", "slots")

    def __init__(self, computation: Computation, slots: Mapping[str, Slot | Unreadable], outbox: Outbox, now: float) -> None:
        self.computation, self.slots, self.outbox = computation, slots, outbox
        #: In ms, rounded up, so that nothing is early.
        self.now = math.ceil(now * 1000)
        #: The last `after=`, and when that is: many keys ask for the same.
        self.after: timedelta | float | None = None
        self.due = 0

    def __missing__(self, key: str) -> Timers:
        timers = self[key] = Timers(self, key, cast("Slot", self.slots[key]))
        return timers


class Timers:
    """The timers of the key that a computation is processing. Changes are part of the message's commit."""

    __slots__ = ("_key", "_last", "_left", "_step", "slot")

    def __init__(self, step: OpenTimers, key: str, slot: Slot) -> None:
        self._step, self._key, self.slot = step, key, slot
        #: The last call of `set` without a message, and what it left.
        self._last: tuple[object, object, object] | None = None
        self._left: Entries | None = None

    def set(
        self, name: str, *, after: timedelta | float | None = None, at: datetime | float | None = None, message: Any = None
    ) -> None:
        """Call the handler of this name `after` some time (a timedelta or seconds), or `at` a time (a datetime with a zone, or seconds since the
        epoch). A timer that is set already is moved. `message`: JSON for the handler.

        Raises `ValueError` and `TypeError` for invalid arguments, and `LookupError` without a handler.
        """
        # Most messages of a batch move a timer to where the one before has moved it: all of them come at the same time.
        if (call := (name, after, at)) == self._last and self.slot.timers is self._left and message is None:
            return
        self._put(name, self._due(after, at), _encoded(message), None)
        self._last, self._left = call if message is None else None, self.slot.timers

    def cancel(self, name: str) -> bool:
        """The timer does not fire. Returns whether it was set."""
        self._handler(name)
        entries = self.slot.timers or NO_TIMERS
        self.slot.timers = Entries({one: entry for one, entry in entries.items() if one != name})
        return name in entries

    def every(
        self, name: str, schedule: Any, *, timezone: str | ZoneInfo = "UTC", catch_up: CatchUp = "one", message: Any = None
    ) -> None:
        """Call the handler again and again: by a `celery.schedules.crontab`, or each `timedelta` from now on. The same call again changes
        nothing; another schedule replaces this one.

        `timezone`: of the crontab. A local time that does not exist fires at the next instant that does; one that exists twice fires once.
        `catch_up`: what happens with runs that were missed. "one": one of them; "none": nothing; "all": each (up to 100, else one).
        """
        self.repeat(name, schedule_of(schedule, timezone, catch_up), message)

    def repeat(self, name: str, wanted: Schedule, message: Any = None) -> None:
        """`every`, with a schedule in its stored form (`schedule_of`)."""
        entry = (self.slot.timers or NO_TIMERS).get(name)
        if entry is not None and entry.schedule == wanted and entry.message == _encoded(message) and entry.alarm > self._step.now - 1000 * 60:
            return
        due = next_due(wanted, self._step.now) if entry is None or entry.schedule != wanted else entry.due
        if due is None:
            raise ValueError(f"the schedule of timer {name!r:.80} never comes")
        self._put(name, due, _encoded(message), wanted)

    @property
    def now(self) -> datetime:
        """The server's time: `after=` counts from it. The same for all messages of a batch."""
        return _moment(self._step.now)

    def due(self, name: str) -> datetime | None:
        """When the timer is due. None if it is not set."""
        self._handler(name)
        entry = (self.slot.timers or NO_TIMERS).get(name)
        return None if entry is None else _moment(entry.due)

    def _handler(self, name: str) -> Computation:
        computation = self._step.computation
        handler = computation.handlers.get(name)
        if handler is None or name == EXPIRY:
            known = ", ".join(repr(one) for one in sorted(computation.handlers) if one != EXPIRY) or "none"
            raise LookupError(
                f"computation {computation.name!r} has no handler for the timer {name!r:.80}. Declare one with @….on_timer({name!r:.80}). "
                f"Its timers: {known}"
            )
        return handler

    def _due(self, after: timedelta | float | None, at: datetime | float | None) -> int:
        step = self._step
        if at is None and after is not None and after == step.after:
            return step.due
        if (after is None) == (at is None):
            raise TypeError("pass either after= or at=")
        if isinstance(at, datetime):
            if at.tzinfo is None:
                raise ValueError("at= must have a time zone: datetime.now(UTC) + …")
            at = at.timestamp()
        elif after is not None:
            at = step.now / 1000 + (after.total_seconds() if isinstance(after, timedelta) else after)
        if isinstance(at, bool) or not isinstance(at, int | float) or not math.isfinite(at) or at * 1000 > MAX_DUE:
            raise ValueError(f"a timer's time must be a timedelta, a datetime or a number of seconds before the year 10000, not {at!r:.40}")
        due = max(0, math.ceil(at * 1000 - FLOAT_ERROR_MS))
        if after is not None:
            step.after, step.due = after, due
        return due

    def _put(self, name: str, due: int, message: bytes, schedule: Schedule | None) -> None:
        handler = self._handler(name)
        entries = Entries(self.slot.timers or NO_TIMERS)
        before = entries.get(name)
        if before is None and len(entries) >= MAX_TIMERS:
            raise ValueError(f"key {self._key!r:.80} has {MAX_TIMERS} timers already. Use several keys, or keep the times in the state")
        alarm = _alarm(before, due, self._step.now)
        if before is None or alarm != before.alarm:
            self._step.outbox.add(Alarm(alarm, alarm_entry(handler.name, self._key)), is_message=False)
        entries[name] = TimerEntry(due, alarm, message, schedule)
        entries.head = b""
        self.slot.timers = entries


def _alarm(before: TimerEntry | None, due: int, now: int) -> int:
    """The alarm for a timer: the one that is set, if it rings before. One in the past may not be there any more, because its firing may have
    become a dead letter."""
    return before.alarm if before is not None and now < before.alarm <= due else due


def fresh_expiries(computation: Computation, now: float) -> tuple[int, int, int]:
    """When the expiries of keys that are used now may be due without being moved, from and to; and now. All in ms. To write less, an expiry is
    moved only by more than 1 %, and so comes up to 1 % late."""
    ttl, now_ms = computation.ttl_ms, math.ceil(now * 1000)
    assert ttl is not None
    return now_ms + ttl, now_ms + ttl + 2 * (ttl // 100), now_ms


def touch(computation: Computation, key: str, slot: Slot, now: float) -> Alarm | None:
    """A key with a `ttl=` was used: move its expiry. Returns the alarm to set."""
    first, last, now_ms = fresh_expiries(computation, now)
    due, before = (first + last) // 2, (slot.timers or NO_TIMERS).get(EXPIRY)
    if before is not None and first <= before.due <= last and before.alarm > now_ms:
        return None
    alarm = _alarm(before, due, now_ms)
    slot.timers = Entries({**(slot.timers or NO_TIMERS), EXPIRY: TimerEntry(due, alarm)})
    return None if before is not None and alarm == before.alarm else Alarm(alarm, alarm_entry(computation.handlers[EXPIRY].name, key))


def fire(handler: Computation, key: str, slot: Slot, outbox: Outbox, now: float) -> Timer | None:
    """At a firing's turn: the timer, if it is due; it is then removed, or set to its next run. Otherwise None, and it is as before, with an alarm."""
    name, now_ms = handler.timer, math.floor(now * 1000 + 0.001)
    entries = Entries(slot.timers or NO_TIMERS)
    entry = entries.pop(name, None)
    if entry is None:
        return None
    if entry.due > now_ms:
        happens, following = False, entry.due
    elif entry.schedule is None:
        happens, following = True, None
    else:
        happens, following = after_firing(entry.schedule, entry.due, now_ms)
    if following is not None:
        entries[name] = TimerEntry(following, following, entry.message, entry.schedule)
        outbox.add(Alarm(following, alarm_entry(handler.name, key)), is_message=False)
    slot.timers = entries
    if not happens:
        return None
    message = msgspec.json.decode(entry.message) if entry.message else None
    return Timer(name, _moment(entry.due), datetime.fromtimestamp(now, UTC), message)


def next_alarm(handler: Computation, key: str, slot: Slot, now: float) -> Alarm | None:
    """The alarm that a repeated timer needs when a firing of it was given up. At its turn the overdue run catches up."""
    entry = (slot.timers or NO_TIMERS).get(handler.timer)
    following = None if entry is None or entry.schedule is None else next_due(entry.schedule, math.ceil(now * 1000))
    return None if following is None else Alarm(following, alarm_entry(handler.name, key))


def _encoded(message: Any) -> bytes:
    if message is None:
        return b""
    encoded = json_text(message)
    if len(encoded) > MAX_MESSAGE_BYTES:
        raise ValueError(f"the timer's message has {len(encoded)} bytes of JSON; at most {MAX_MESSAGE_BYTES:,} are stored. Keep it in the state")
    return encoded


def _moment(milliseconds: int) -> datetime:
    return datetime.fromtimestamp(milliseconds / 1000, UTC)
