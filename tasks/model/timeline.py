"""What one commit changed about each key, for the keys' timelines (PARTITIONS_TIMELINE_BYTES)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

import msgspec

from celery_partitions.model.effects import Alarm, Delivery, Emission, Hop, ParkedKey, Push, Timer, WhyParked
from celery_partitions.model.items import Work
from celery_partitions.model.messages import details_of, moment_or_none, name_of
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.own_lines import key_and_computation

#: Of one commit, these many messages of a key, and outputs of a message, are written one by one; of the others only how many they are.
MAX_EVENTS = 20
MAX_SENDS = 5
#: Names and ids, and errors, are cut to this length.
MAX_NAME_CHARACTERS = 200
MAX_ERROR_CHARACTERS = 400
#: A longer record of a state is not kept, only its size.
MAX_STATE_BYTES = 4_000
#: A larger change is kept without states and outputs.
MAX_CHANGE_BYTES = 16_000

#: `applied`, `failed`, `dead`: what became of a message. `parked`: what the key, or a line of it, waits for from now on. `waits`: messages that
#: left the queue for the key's mailbox in that commit: one that failed or whose call is in flight, and those behind.
What = Literal["applied", "failed", "dead", "parked", "waits"]


class Sent(msgspec.Struct, frozen=True, omit_defaults=True):
    """An output. `to`: a queue, a sink, or `timer`."""

    to: str
    task: str = ""
    id: str = ""


class Event(msgspec.Struct, omit_defaults=True):
    """What happened to one message, or to the key."""

    what: What
    task: str = ""
    id: str = ""
    #: When it was sent, by its sender's clock. None: it does not say.
    sent_at: float | None = None
    #: The number of the attempt; of `parked` that of the next one.
    attempt: int = 1
    #: Of `dead`: its reason, a colon, and the error.
    error: str = ""
    #: Of `parked`: why, and when the next attempt is due (None: an operator must act).
    why: WhyParked | None = None
    due: float | None = None
    #: Of `waits`: how many messages.
    count: int = 1
    sends: list[Sent] = msgspec.field(default_factory=list)
    sends_left_out: int = 0


class StateChange(msgspec.Struct, omit_defaults=True):
    """The record of one computation's state: bytes as in Redis; its size, if it is too long to be kept; None: there is none."""

    before: bytes | int | None = None
    after: bytes | int | None = None


class KeyChange(msgspec.Struct, omit_defaults=True):
    """What one commit changed about a key."""

    #: Seconds since the epoch, by the server's clock.
    at: float
    commit_number: int
    #: The node name of the worker.
    worker: str = ""
    events: list[Event] = msgspec.field(default_factory=list)
    left_out: int = 0
    #: Whether states and outputs were left out, because they are too many.
    shortened: bool = False
    #: By computation. One commit may have applied several messages: it stores the state after the last one.
    states: dict[str, StateChange] = msgspec.field(default_factory=dict)


#: The record of a computation's state that a commit replaces, given the computation and the key. None: there is none.
Stored = Callable[[str, str], bytes | None]


def changes_in(
    outcome: Outcome, parked: Mapping[str, ParkedKey], known: Mapping[str, ParkedKey], stored: Stored, *, at: float, commit_number: int, worker: str
) -> dict[str, bytes]:
    """What the commit of an outcome changes, by key, as JSON. `parked`: the records that it writes. `known`: those from before."""
    changes: dict[str, KeyChange] = {}
    for place, event in _events(outcome, parked, known):
        key = key_and_computation(place)[0]
        change = changes.get(key)
        if change is None:
            change = changes[key] = KeyChange(at, commit_number, worker)
        if len(change.events) < MAX_EVENTS:
            change.events.append(event() if callable(event) else event)
        else:
            change.left_out += 1
    for computation, states in outcome.states.items():
        for key, after in states.items():
            change = changes.setdefault(key, KeyChange(at, commit_number, worker))
            change.states[computation] = StateChange(_kept(stored(computation, key)), _kept(after or None))
    return {key: _dumped(change) for key, change in changes.items()}


def _events(
    outcome: Outcome, parked: Mapping[str, ParkedKey], known: Mapping[str, ParkedKey]
) -> Iterator[tuple[str, Event | Callable[[], Event]]]:
    """Places (keys, or own lines) with what happened, in the order in which to show it."""
    for work in outcome.done:
        yield work.key, lambda work=work: _applied(outcome, work, known)  # type: ignore[misc]
    for failure in outcome.failures:
        headers = failure.item.envelope.headers
        yield failure.item.key, Event("failed", _name(headers.task), _name(headers.id), attempt=failure.attempt, error=_text(failure.error))
    for item, attempts in outcome.dead:
        if item.key is not None:
            text = f"{item.reason}: {item.error}"
            yield item.key, Event("dead", _name(item.task), _name(item.message_id), attempt=max(1, attempts), error=_text(text))
    for place, record in parked.items():
        yield (
            place,
            Event("parked", _name(record.task), _name(record.message_id), attempt=record.attempt, why=record.why, due=record.due),
        )
    for place, raws in outcome.mailed.items():
        if place in parked or place not in known:  # else they would push out why it waits
            yield place, Event("waits", count=len(raws))


def _applied(outcome: Outcome, work: Work, known: Mapping[str, ParkedKey]) -> Event:
    headers = work.envelope.headers
    event = Event("applied", _name(headers.task), _name(headers.id), moment_or_none(details_of(work.raw).sent_at))
    record = known.get(work.key)
    if record is not None and record.message_id == headers.id:
        event.attempt = max(1, record.attempt)
    sent = outcome.outputs_of(work)
    event.sends = [_sent(one) for one in sent[:MAX_SENDS]]
    event.sends_left_out = max(0, len(sent) - MAX_SENDS)
    return event


def _sent(one: Emission) -> Sent:
    match one:
        case Hop(partition, raw):
            task, message_id = name_of(raw)
            return Sent(f"partition {partition}", _name(task), _name(message_id))
        case Push(queue, raw):
            task, message_id = name_of(raw)
            return Sent(_name(queue), _name(task), _name(message_id))
        case Delivery(sink, message_id):
            return Sent(_name(getattr(sink, "stream", None) or getattr(sink, "list", "")), id=_name(message_id))
        case Timer() | Alarm():
            return Sent("timer")


def _dumped(change: KeyChange) -> bytes:
    text = msgspec.json.encode(change)
    if len(text) > MAX_CHANGE_BYTES:
        change.states, change.shortened = {}, True
        for event in change.events:
            event.sends, event.error = [], event.error[: MAX_NAME_CHARACTERS // 2]
        text = msgspec.json.encode(change)
    return text


def _kept(record: bytes | None) -> bytes | int | None:
    return record if record is None or len(record) <= MAX_STATE_BYTES else len(record)


def _name(value: Any) -> str:
    return str(value or "")[:MAX_NAME_CHARACTERS].encode("utf-8", "backslashreplace").decode()


def _text(error: str) -> str:
    return error[:MAX_ERROR_CHARACTERS].encode("utf-8", "backslashreplace").decode()
