"""The states of a partition in the hands of its worker, and what moves it from one to the other.

Everything that decides whether the worker may trust its memory of a partition is here. `OwnedPartition.on` is the only place that changes a
state. An event that cannot happen in a state raises `ImpossibleEvent`: the loop then forgets what it knows and reads it again.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum


class State(Enum):
    """The value says what holds in the state, and what the worker does next."""

    FORGOTTEN = "Nothing in memory counts. The worker peeks at the queue."
    UNSURE = "Memory counts if a peek finds the partition as this worker left it. The worker peeks."
    PEEKED = "The head of the queue is known. The worker loads the parked keys."
    KNOWN = "Memory is as Redis. The worker takes a batch; or waits for a message, or for the end of a pause."
    COMMITTING = "A commit is in flight. The worker waits for its answer, and works on other partitions."
    CLOSED = "The worker no longer holds the lease. It does nothing more under this token."


class Event(Enum):
    """The value says what happened."""

    NEWS = "The queue may have changed: a message came, or a connection broke."
    READ = "A peek, or the answer to a commit, came. Nobody else changed anything."
    CHANGED = "The same, but an operator has changed a state or a parked key."
    LOADED = "The parked keys were loaded."
    SENT = "A commit was sent."
    FORGET = "Memory is wrong: a commit was refused or failed, or an operator changed something."
    CLOSE = "Another worker has the lease, or this one gives it up."


_ANY: Mapping[Event, State] = {Event.FORGET: State.FORGOTTEN, Event.CLOSE: State.CLOSED}

#: State → event → next state. An event that is not listed for a state cannot happen in it.
TRANSITIONS: Mapping[State, Mapping[Event, State]] = {
    State.FORGOTTEN: {
        Event.NEWS: State.FORGOTTEN,
        Event.READ: State.PEEKED,
        Event.CHANGED: State.PEEKED,
        **_ANY,
    },
    State.UNSURE: {
        Event.NEWS: State.UNSURE,
        Event.READ: State.KNOWN,
        Event.CHANGED: State.PEEKED,
        Event.SENT: State.COMMITTING,  # the connection broke between the step and the commit, which names its commit number
        **_ANY,
    },
    State.PEEKED: {
        Event.NEWS: State.FORGOTTEN,
        Event.LOADED: State.KNOWN,
        **_ANY,
    },
    State.KNOWN: {
        Event.NEWS: State.UNSURE,
        Event.READ: State.KNOWN,
        Event.CHANGED: State.FORGOTTEN,
        Event.SENT: State.COMMITTING,
        **_ANY,
    },
    State.COMMITTING: {
        Event.NEWS: State.COMMITTING,  # the answer brings the head of the queue
        Event.READ: State.KNOWN,
        Event.CHANGED: State.FORGOTTEN,  # the outcome was based on what the operator changed
        **_ANY,
    },
    State.CLOSED: dict.fromkeys(Event, State.CLOSED),
}


class ImpossibleEvent(Exception):
    """An event that the table does not list for a state. It is an error in the worker."""
