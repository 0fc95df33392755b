"""What happened to one key: from its timeline in Redis if that is switched on, from the audit, and from what a look sees that changed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, cast

import msgspec
import redis

from celery_partitions.admin.audit import Audit, AuditRecord
from celery_partitions.admin.numbers import counted, span
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.state_json import plain_fields, plain_value
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.errors import PartitionError
from celery_partitions.model.keys import key_bytes, shown_key
from celery_partitions.model.timeline import Event, KeyChange, StateChange
from celery_partitions.store.server import server_time
from celery_partitions.store.states import StateReader
from celery_partitions.store.timelines import read_timeline

#: Rows of one look, and how many of the newest records of the audit are searched for the key.
MAX_ROWS = 100
MAX_AUDIT = 500
#: Fields of a state that are compared; later ones are not shown.
MAX_FIELDS = 20

WHYS = {
    "hold": "no retry left",
    "retry": "will be retried",
    "running": "call in flight",
    "unknown-task": "unknown task",
    "unreadable-state": "unreadable state",
    "rate": "rate limit",
    "gather": "batch is being filled",
    "ready": "takes turns",
}


class FieldChange(msgspec.Struct, frozen=True):
    """A field of a state. None: it was not there, or is not any more."""

    field: str
    before: Any
    after: Any


class StateDiff(msgspec.Struct, frozen=True):
    """How a state changed: field by field, or `note` says why that is not known."""

    computation: str
    fields: list[FieldChange]
    note: str = ""


class Row(msgspec.Struct, frozen=True):
    """One line of a key's timeline: what a commit or an operator changed."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    #: The worker or the operator; "": not known, because it was seen from outside.
    who: str
    #: A sentence for each thing that happened.
    what: list[str]
    states: list[StateDiff]
    commit_number: int | None = None
    #: The same as `what`, for scripts. Empty if it is no commit.
    events: list[Event] = []


def row_of_record(record: AuditRecord) -> Row:
    """An operator's action as a row."""
    detail = record.detail
    states = []
    if "computation" in detail and "old" in detail:
        states = [StateDiff(str(detail["computation"]), _fields(detail["old"], detail.get("new")))]
    named = [str(detail[name]) for name in ("timer", "message_id") if detail.get(name)]
    return Row(record.at, record.who, [" ".join([record.what, *named])], states)


def sentence(event: Event, at: float) -> str:
    """What happened, for people. `at`: when, in seconds since the epoch."""
    message = " ".join(filter(None, (event.task, event.id)))
    attempt = f", attempt {event.attempt}" if event.attempt > 1 else ""
    match event.what:
        case "applied":
            late = "" if event.sent_at is None else f", {span(at - event.sent_at)} after it was sent"
            sent = ", ".join(filter(None, (" ".join(filter(None, (one.task, one.id, "to", one.to))) for one in event.sends)))
            more = f" and {event.sends_left_out:,} more" if event.sends_left_out else ""
            return f"applied {message}{late}{attempt}" + (f"; sent {sent}{more}" if sent else "")
        case "failed":
            return f"{message} failed, attempt {event.attempt}: {event.error}"
        case "dead":
            return f"{message or 'a message'} became a dead letter: {event.error}"
        case "parked":
            if event.why == "running":
                return f"the call of {message or 'the next message'} is in flight{attempt}"
            due = "until you act" if event.due is None else f"next in {span(max(0.0, event.due - at))}"
            return f"waits ({WHYS.get(event.why or '', event.why)}), {due}, attempt {event.attempt}: {message}".rstrip(": ")
        case "waits":
            return f"{counted(event.count, 'message')} went to its mailbox, to be applied in order"


class KeyWatch:
    """What happens to one key. `past` is what is known at once. Each `look` returns what happened since the last one; the first look shows what
    is there.

    What commits wrote into the key's timeline is complete. Without it, what changed between two looks is one row. States are unpickled only if
    this process has their computation, and may. All methods raise redis-py's errors.
    """

    def __init__(
        self, key: str, states: StateReader, parked_keys: ParkedKeys, audit: Audit, computations: Mapping[str, Computation]
    ) -> None:
        self.key, self.states, self.parked_keys, self.audit, self.computations = key, states, parked_keys, audit, computations
        self.partition = parked_keys.partition(key)
        self._seen_change = (0.0, -1)
        self._seen_audit = 0.0
        self._records: dict[str, bytes | None] | None = None
        self._parked = ""

    @property
    def has_looked(self) -> bool:
        return self._records is not None

    def past(self) -> list[Row]:
        """The key's timeline and what operators did to it, newest first."""
        rows = [*self._rows_of(self._changes()), *map(row_of_record, self._audit_records())]
        return sorted(rows, key=lambda row: -row.at)[:MAX_ROWS]

    def look(self) -> list[Row]:
        """What happened since the last look, oldest first. After an error, the next look returns what this one missed."""
        changes, audited = self._changes(), self._audit_records()
        records, parked, now = self._read_records(), next(iter(self.parked_keys.of_key(self.key)), None), server_time(self.states.client)
        rows = list(self._rows_of([one for one in reversed(changes) if _place(one) > self._seen_change]))
        rows += [row_of_record(one) for one in reversed(audited) if one.at > self._seen_audit]
        standing = _standing(parked)
        if not rows or self._records is None:
            rows += self._rows_of_look(now, records, standing)
        self._seen_change = max(map(_place, changes), default=self._seen_change)
        self._seen_audit = max((one.at for one in audited), default=self._seen_audit)
        self._records, self._parked = records, standing
        return sorted(rows, key=lambda row: row.at)

    def _changes(self) -> list[KeyChange]:
        return read_timeline(self.states.client, self.states.names, self.partition, self.key)[:MAX_ROWS]

    def _audit_records(self) -> list[AuditRecord]:
        name = shown_key(self.key)
        return [one for one in self.audit.last(MAX_AUDIT) if one.detail.get("key") == name]

    def _rows_of(self, changes: Iterable[KeyChange]) -> Iterator[Row]:
        """Commits as rows."""
        for change in changes:
            what = [sentence(event, change.at) for event in change.events]
            if change.left_out:
                what.append(f"and {counted(change.left_out, 'more message')}")
            states = [self._diff(computation, one) for computation, one in change.states.items()]
            if change.shortened:
                states = [StateDiff("", [], "the states and outputs of this commit are too many to be kept")]
            yield Row(change.at, change.worker, what, states, change.commit_number, change.events)

    def _rows_of_look(self, now: float, records: Mapping[str, bytes | None], standing: str) -> list[Row]:
        first, before = self._records is None, self._records or {}
        what = [standing or "nothing of this key is parked"] if first or standing != self._parked else []
        changed = [name for name, record in records.items() if record != before.get(name)]
        found = [self._diff(name, StateChange(before.get(name), records[name])) for name in changed]
        return [Row(now, "", what, found)] if what or found else []

    def _read_records(self) -> dict[str, bytes | None]:
        names, wanted = self.states.names, sorted(name for name, one in self.computations.items() if one.state is not None)
        with self.states.client.pipeline(transaction=False) as pipe:
            for name in wanted:
                pipe.hget(names.states(self.partition, name), cast(str, key_bytes(self.key)))
            found = pipe.execute(raise_on_error=False)
        for one in found:
            if isinstance(one, redis.RedisError) and not isinstance(one, redis.ResponseError):
                raise one
        return {name: one if isinstance(one, bytes) else None for name, one in zip(wanted, found, strict=True)}

    def _diff(self, computation: str, change: StateChange) -> StateDiff:
        sizes = [one for one in (change.before, change.after) if isinstance(one, int)]
        if sizes:
            return StateDiff(computation, [], f"changed; it is too long to be kept ({max(sizes):,} bytes)")
        try:
            before, after = (self._plain(computation, one) for one in (change.before, change.after) if not isinstance(one, int))
        except PartitionError as error:
            return StateDiff(computation, [], f"changed; this process does not show it: {error}")
        return StateDiff(computation, _fields(before, after))

    def _plain(self, computation: str, record: bytes | None) -> Any:
        """A record's fields in the form that JSON can represent, with its timers. Raises `PartitionError`."""
        if record is None:
            return None
        known = self.computations.get(computation)
        if known is None or known.state is None:
            raise PartitionError("it does not have the computation")
        codec = self.states.codec
        fields = plain_value(plain_fields(codec.load(known, self.key, record)))
        timers = {f"timer {name}" if name else "expires": entry.due / 1000 for name, entry in (codec.timers(record) or {}).items()}
        return {**fields, **timers}


def _fields(before: Any, after: Any) -> list[FieldChange]:
    """The fields that differ; the whole value, with an empty name, if one is no object."""
    if not isinstance(before, dict | None) or not isinstance(after, dict | None):
        return [FieldChange("", before, after)]
    names = {**(before or {}), **(after or {})}
    changed = [FieldChange(name, (before or {}).get(name), (after or {}).get(name)) for name in names]
    return [one for one in changed if one.before != one.after or before is None or after is None][:MAX_FIELDS]


def _place(change: KeyChange) -> tuple[float, int]:
    return change.at, change.commit_number


def _standing(parked: ParkedKey | None) -> str:
    """What a key waits for, without what changes by itself."""
    if parked is None:
        return ""
    message = " ".join(filter(None, (parked.task, parked.message_id)))
    waiting = f"{counted(parked.waiting, 'message')} in its mailbox"
    if parked.why == "running":
        return f"the call of {message or 'its next message'} is in flight; {waiting}"
    error = f": {parked.error}" if parked.error else ""
    return f"waits ({WHYS.get(parked.why, parked.why)}), attempt {parked.attempt}; {waiting}{error}"
