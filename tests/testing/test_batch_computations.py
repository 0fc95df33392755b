"""Batch computations in the harness, on its virtual clock: when they are called, with what, in which order, and what follows a failure."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

import pytest

from celery_partitions import Context, RetryPolicy, StateComputation, Timer, app
from celery_partitions.model.declaration import declare, timer_handler
from celery_partitions.testing import CRASH_POINTS, CrashPoint, Harness, apply, harness

POLICY = RetryPolicy(attempts=2, backoff_seconds=0.1, longest_backoff_seconds=0.1, jitter=0, exhausted="dead_letter")


@dataclass
class Order:
    customer: str
    number: int


@dataclass
class Index:
    numbers: list[int] = field(default_factory=list)


#: Of each call: the numbers it got, and its attempt.
CALLS: list[list[int]] = []
ATTEMPTS: list[int] = []
#: A call with one of these raises.
SPOILED: set[int] = set()


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    CALLS.clear()
    ATTEMPTS.clear()
    SPOILED.clear()
    yield


def note(orders: list[Order], state: Index, context: Context) -> None:
    CALLS.append([order.number for order in orders])
    ATTEMPTS.append(context.attempt)
    assert context.message_id == context.message_ids[0]
    assert len(context.message_ids) == len(orders)
    state.numbers += CALLS[-1]
    if SPOILED.intersection(CALLS[-1]):
        raise ValueError("a spoiled order")


async def note_later(orders: list[Order], state: Index, context: Context) -> None:
    note(orders, state, context)
    await asyncio.sleep(0.01)


def customer_of(order: Order) -> str:
    return order.customer


def index(function: Any = note, **options: Any) -> StateComputation[Any, Any, Index]:
    options = {"flush_every": 4, "flush_interval": 2, **options}
    return StateComputation(declare(function, name="index", state=Index, key=customer_of, **options))


def orders(count: int, customer: str = "ada", start: int = 0) -> list[Order]:
    return [Order(customer, number) for number in range(start, start + count)]


def numbers(h: Harness, key: str = "ada") -> list[int]:
    state = h.state("index", key)
    return [] if state is None else state.numbers


KINDS = [(note, {}), (note_later, {}), (note, {"executor": "threads"}), (note, {"rate_limit": "1000/s"}), (note, {"time_limit": 5})]


@pytest.mark.parametrize(("function", "options"), KINDS)
def test_enough_messages_are_called_at_once_and_others_after_the_interval(function: Any, options: dict[str, Any]) -> None:
    with harness(index(function, **options), partitions=1) as h:
        h.send_many(orders(10))
        assert CALLS == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        h.send_many(orders(2, start=10))
        h.advance(seconds=1.9)
        assert len(CALLS) == 3
        h.advance(seconds=0.2)
        assert CALLS[3:] == [[10, 11]]
        h.send_many(orders(3, start=12))
        h.send_many(orders(7, start=15))
        assert CALLS[4:] == [[12, 13, 14, 15], [16, 17, 18, 19]]
        h.advance(seconds=2.1)
        assert CALLS[6:] == [[20, 21]]
        assert numbers(h) == list(range(22))
        assert h.parked == {}


def test_messages_that_come_one_by_one_are_collected() -> None:
    with harness(index(), partitions=1) as h:
        for order in orders(6):
            h.send(order)
            h.advance(milliseconds=100)
        assert CALLS == [[0, 1, 2, 3]]
        h.advance(seconds=3)
        assert CALLS == [[0, 1, 2, 3], [4, 5]]
        h.send(Order("ada", 6))
        h.send(Order("bob", 0))
        h.advance(seconds=1)
        assert len(CALLS) == 2
        h.advance(seconds=1.1)
        assert sorted(CALLS[2:]) == [[0], [6]]


def test_the_interval_counts_from_the_first_message() -> None:
    with harness(index(flush_interval=timedelta(seconds=2)), partitions=1) as h:
        for number in range(3):
            h.send(Order("ada", number))
            h.advance(seconds=0.9)
        assert CALLS == [[0, 1, 2]]


@pytest.mark.parametrize("spoiled", [{0}, {5}, {7}, {2, 3}, set(range(8))], ids=str)
@pytest.mark.parametrize(("function", "options"), KINDS)
def test_a_failing_batch_is_retried_then_halved_until_the_spoiled_message_stands_alone(
    function: Any, options: dict[str, Any], spoiled: set[int]
) -> None:
    SPOILED.update(spoiled)
    with harness(index(function, flush_every=8, on_error=POLICY, **options), partitions=1) as h:
        h.send_many(orders(12))
        assert (CALLS, numbers(h)) == ([list(range(8))], [])
        h.send(Order("bob", 100))
        h.advance(seconds=5)
        assert CALLS[:3] == [list(range(8))] * 3
        assert ATTEMPTS[:4] == [1, 2, 3, 1]
        assert CALLS[3] == [0, 1, 2, 3]
        assert numbers(h) == [number for number in range(12) if number not in spoiled]
        assert [message.attempts for message in h.dead_letters] == [3] * len(spoiled)
        assert numbers(h, "bob") == [100]
        assert h.parked == {}
        assert len(CALLS) < 3 + 9 * len(spoiled) + 8


def test_an_error_that_is_not_retried_halves_at_once() -> None:
    SPOILED.add(2)
    policy = RetryPolicy(only=(OSError,), exhausted="hold")
    with harness(index(on_error=policy), partitions=1) as h:
        h.send_many(orders(8))
        assert numbers(h) == [0, 1]
        parked = h.parked["ada"]
        assert (parked.why, parked.size, parked.suspects, parked.waiting) == ("hold", 1, 2, 6)
        assert [message.message_id for message in h.dead_letters] == [parked.message_id]


def test_a_message_that_fails_alone_is_retried_alone() -> None:
    SPOILED.add(0)
    with harness(index(on_error=POLICY), partitions=1) as h:
        h.send(Order("ada", 0))
        h.advance(seconds=2)
        h.send_many(orders(3, start=1))
        h.advance(seconds=5)
        assert CALLS == [[0], [0], [0], [1, 2, 3]]
        assert len(h.dead_letters) == 1


@pytest.mark.parametrize("function", [note, note_later])
@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_crash_loses_nothing(function: Any, point: CrashPoint) -> None:
    with harness(index(function), partitions=2) as h:
        h.send_many(orders(3))
        h.crash(point)
        h.send_many(orders(7, start=3))
        h.crash(point)
        h.advance(seconds=3)
        h.send_many(orders(4, start=10))
        h.advance(seconds=3)
        assert numbers(h) == list(range(14))
        assert not h.parked
        assert not h.dead_letters


def test_a_crash_at_an_await_loses_nothing() -> None:
    with harness(index(note_later), partitions=1) as h:
        h.crash_at_await(1)
        h.send_many(orders(6))
        h.advance(seconds=3)
        assert numbers(h) == list(range(6))


def test_twice() -> None:
    SPOILED.add(3)
    with harness(index(flush_every=8, on_error=POLICY), partitions=1, twice=True) as h:
        h.send_many(orders(12))
        h.advance(seconds=9)
        assert numbers(h) == [0, 1, 2, *range(4, 12)]


def test_batches_of_few_messages_and_of_many_keys() -> None:
    """The worker's own batches do not decide what is called together."""
    with harness(index(), partitions=2, batch_messages=3) as h:
        keys = [f"customer-{number}" for number in range(5)]
        h.send_many(Order(key, number) for number in range(8) for key in keys)
        assert sorted(CALLS) == [[0, 1, 2, 3]] * 5 + [[4, 5, 6, 7]] * 5
        assert all(numbers(h, key) == list(range(8)) for key in keys)


def test_a_timer_of_the_key_keeps_its_place() -> None:
    def collect(orders: list[Order], state: Index, context: Context) -> None:
        note(orders, state, context)
        if orders[0].number == 0:
            context.timers.set("remind", after=1)

    def remind(timer: Timer, state: Index) -> None:
        state.numbers.append(-1)

    collected = index(collect)
    timer_handler(collected.computation, "remind", remind)
    with harness(collected, partitions=1) as h:
        h.send_many(orders(4))
        h.advance(milliseconds=500)
        h.send_many(orders(2, start=4))
        h.advance(milliseconds=600)  # the timer ends the gather
        assert numbers(h) == [0, 1, 2, 3, 4, 5, -1]
        assert h.parked == {}


def test_a_key_that_is_not_used_is_forgotten() -> None:
    with harness(index(ttl=10), partitions=1) as h:
        h.send_many(orders(2))
        h.advance(seconds=9)
        assert numbers(h) == [0, 1]
        h.send_many(orders(4, start=2))
        h.advance(seconds=9)
        assert numbers(h) == list(range(6))
        h.advance(seconds=9)
        assert numbers(h) == []


def test_what_a_batch_sends_is_sent_once() -> None:
    def send(orders: list[Order], state: Index, context: Context) -> None:
        app.send_task("told", args=[[order.number for order in orders]])
        note(orders, state, context)

    SPOILED.add(1)
    with harness(index(send, on_error=POLICY), partitions=1) as h:
        h.send_many(orders(6))
        h.advance(seconds=9)
        assert [sent.message for sent in h.sent] == [[0], [2, 3], [4, 5]] or [sent.message for sent in h.sent] == CALLS
        assert len({sent.id for sent in h.sent}) == len(h.sent)


def test_duplicates_delayed_and_expired_messages() -> None:
    with harness(index(deduplicate=60), partitions=1) as h:
        h.send(Order("ada", 0), message_id="a")
        h.send(Order("ada", 0), message_id="a")
        h.send(Order("ada", 2), countdown=1)
        h.send(Order("ada", 1), message_id="b")
        h.advance(seconds=1)
        h.send(Order("ada", 0), message_id="a")
        h.advance(seconds=2)
        assert CALLS == [[0, 1, 2]]


def test_apply_gives_all_messages_of_a_key() -> None:
    result = apply(index(), [*orders(6), Order("bob", 7)])
    assert CALLS == [[0, 1, 2, 3], [4, 5], [7]]
    assert {key: state.numbers for key, state in result.states.items()} == {"ada": list(range(6)), "bob": [7]}
    SPOILED.add(5)
    result = apply(index(), orders(6))
    assert result.states["ada"].numbers == [0, 1, 2, 3]
    assert [message.number for message, _ in result.failures] == [4, 5]
