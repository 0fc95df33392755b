"""The states of an owned partition: every event in every state, and what each state promises about memory."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

import pytest

from celery_partitions.store.commits import Reply
from celery_partitions.store.leases import Lease
from celery_partitions.worker.listening import idle_partitions
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import TRANSITIONS, Event, ImpossibleEvent, State
from celery_partitions.worker.state_cache import StateCache

#: The pairs that cannot happen. Everything else is in the table.
IMPOSSIBLE = {
    *((state, Event.LOADED) for state in State if state not in (State.PEEKED, State.CLOSED)),
    *((state, Event.SENT) for state in State if state not in (State.KNOWN, State.UNSURE, State.CLOSED)),
    *product((State.PEEKED,), (Event.READ, Event.CHANGED)),
}


def reply(*, edit_version: int = 0) -> Reply:
    return Reply("ok", commit_number=1, edit_version=edit_version, now=0.0, next_due=None, messages=[b"next"])


#: How the worker reports each event to a partition.
REPORT: dict[Event, Callable[[OwnedPartition], None]] = {
    Event.NEWS: OwnedPartition.look_again,
    Event.READ: lambda owned: owned.take_reply(reply()),
    Event.CHANGED: lambda owned: owned.take_reply(reply(edit_version=1)),
    Event.LOADED: lambda owned: owned.take_parked({}, {}),
    Event.SENT: lambda owned: owned.on(Event.SENT),
    Event.FORGET: OwnedPartition.forget_all,
    Event.CLOSE: lambda owned: owned.on(Event.CLOSE),
}


def owned_in(state: State) -> OwnedPartition:
    """With a message and a cache in memory."""
    return OwnedPartition(Lease("0", 1), clock=lambda: 0.0, state=state, messages=[b"known"], cache=StateCache())


@pytest.mark.parametrize(("state", "event"), list(product(State, Event)), ids=lambda one: one.name)
def test_every_event_in_every_state(state: State, event: Event) -> None:
    owned = owned_in(state)
    cache = owned.cache
    if (state, event) in IMPOSSIBLE:
        with pytest.raises(ImpossibleEvent, match=rf"is {state.name} cannot have the event {event.name}"):
            REPORT[event](owned)
        return
    REPORT[event](owned)
    assert owned.state is TRANSITIONS[state][event]
    if event in (Event.CHANGED, Event.FORGET):
        assert owned.cache is not cache
    else:
        assert owned.cache is cache


def test_a_closed_partition_stays_closed() -> None:
    assert {TRANSITIONS[State.CLOSED][event] for event in Event} == {State.CLOSED}


@pytest.mark.parametrize("state", [one for one in State if one is not State.CLOSED])
def test_a_partition_can_always_be_forgotten_and_closed(state: State) -> None:
    assert (TRANSITIONS[state][Event.FORGET], TRANSITIONS[state][Event.CLOSE]) == (State.FORGOTTEN, State.CLOSED)


def test_memory_is_trusted_only_after_it_was_read() -> None:
    into_known = {(state, event) for state, moves in TRANSITIONS.items() for event, to in moves.items() if to is State.KNOWN}
    assert into_known == {
        (State.UNSURE, Event.READ),
        (State.KNOWN, Event.READ),
        (State.COMMITTING, Event.READ),
        (State.PEEKED, Event.LOADED),
    }
    into_unsure = {state for state, moves in TRANSITIONS.items() for to in moves.values() if to is State.UNSURE}
    assert into_unsure == {State.KNOWN, State.UNSURE}


def test_every_state_can_be_reached_and_left() -> None:
    reached = {State.FORGOTTEN}
    while more := {to for state in reached for to in TRANSITIONS[state].values()} - reached:
        reached |= more
    assert reached == set(State)
    for state in set(State) - {State.CLOSED}:
        assert set(TRANSITIONS[state].values()) - {state, State.CLOSED}


@pytest.mark.parametrize("state", State)
def test_a_partition_that_is_not_ready_waits_for_something(state: State) -> None:
    """Otherwise nothing would ever move it."""
    owned = owned_in(state)
    owned.messages = []
    idle, _ = idle_partitions([owned], 0.0)
    waits_for = {State.KNOWN: "a message", State.COMMITTING: "the answer", State.CLOSED: "nothing"}
    assert owned.is_ready() == (state not in waits_for)
    assert (idle == [owned]) == (state is State.KNOWN)


def test_a_paused_partition_is_not_ready_and_waits_for_no_message() -> None:
    owned = owned_in(State.KNOWN)
    owned.paused = True
    assert not owned.is_ready()
    assert idle_partitions([owned], 0.0)[0] == []


def test_a_resting_partition_is_not_ready() -> None:
    owned = owned_in(State.FORGOTTEN)
    owned.rest_until = 1.0
    assert not owned.is_ready()
    assert idle_partitions([owned], 0.0) == ([], 1.0)
