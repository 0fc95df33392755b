"""Rate limits in the harness, on its virtual clock: per key, per bucket, for each kind of computation, and through crashes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from celery_partitions import RetryPolicy, StateComputation, source, state_computation
from celery_partitions.model.declaration import declare
from celery_partitions.testing import Harness, harness
from celery_partitions.testing.virtual import CrashPoint


@dataclass
class Order:
    customer: str
    number: int
    bank: str = "one"


@dataclass
class Account:
    numbers: list[int] = field(default_factory=list)


#: When each call began, by the virtual clock.
STARTS: list[tuple[float, str, int]] = []
RUNNING: list[Harness] = []


@pytest.fixture(autouse=True)
def fresh() -> Iterator[None]:
    STARTS.clear()
    RUNNING.clear()
    yield


def note(order: Order, account: Account) -> None:
    STARTS.append((RUNNING[0].now, order.customer, order.number))
    account.numbers.append(order.number)


async def note_later(order: Order, account: Account) -> None:
    note(order, account)
    await asyncio.sleep(0.01)


def customer_of(order: Order) -> str:
    return order.customer


def charge(function: Any = note, **options: Any) -> StateComputation[Any, Any, Account]:
    return StateComputation(declare(function, name="charge", state=Account, key=customer_of, **options))


def times_of(customer: str) -> list[float]:
    begin = STARTS[0][0]
    return [round(at - begin, 3) for at, who, _ in STARTS if who == customer]


KINDS = [(note, {}), (note_later, {}), (note, {"executor": "threads"})]


@pytest.mark.parametrize(("function", "options"), KINDS)
def test_each_key_has_its_own_limit_and_waits_alone(function: Any, options: dict[str, Any]) -> None:
    with harness(charge(function, rate_limit="1/s", **options), partitions=1) as h:
        RUNNING.append(h)
        h.send_many([Order("ada", number) for number in range(4)] + [Order("bob", 0)])
        assert (times_of("ada"), times_of("bob")) == ([0.0], [0.0])
        h.advance(seconds=10)
        assert times_of("ada") == [0.0, 1.0, 2.0, 3.0]
        assert h.state("charge", "ada").numbers == [0, 1, 2, 3]


def test_a_burst_after_a_pause() -> None:
    with harness(charge(rate_limit="1/s", burst=3), partitions=1) as h:
        RUNNING.append(h)
        h.send_many([Order("ada", number) for number in range(5)])
        h.advance(seconds=10)
        assert times_of("ada") == [0.0, 0.0, 0.0, 1.0, 2.0]


def test_a_bucket_of_several_keys_in_several_partitions_is_shared() -> None:
    with harness(charge(rate_limit="1/s", rate_limit_key=lambda order: order.bank), partitions=4) as h:
        RUNNING.append(h)
        h.send_many([Order(f"customer-{number}", number) for number in range(8)])
        h.send(Order("other", 0, bank="two"))
        assert len(STARTS) == 2
        h.advance(seconds=20)
        assert len(STARTS) == 9
        begin = STARTS[0][0]
        assert [round(at - begin, 3) for at, who, _ in STARTS if who != "other"] == [float(second) for second in range(8)]


def test_a_limited_stage_of_a_pipeline_rolls_back_what_the_stages_before_it_did() -> None:
    def count(order: Order, account: Account) -> Order:
        account.numbers.append(order.number)
        return order

    counted = state_computation("count", state=Account)(count)
    limited = state_computation("charge", state=Account, rate_limit="1/s")(note)
    pipeline = source("orders").key_by(customer_of).to(counted).to(limited).to_sinks([])
    with harness(pipeline, partitions=1) as h:
        RUNNING.append(h)
        h.send_many([Order("ada", number) for number in range(3)])
        h.advance(seconds=5)
        assert times_of("ada") == [0.0, 1.0, 2.0]
        assert h.state(counted, "ada").numbers == h.state(limited, "ada").numbers == [0, 1, 2]


def test_a_message_that_fails_keeps_its_attempts_while_it_waits_for_its_limit() -> None:
    def fail(order: Order, account: Account) -> None:
        STARTS.append((RUNNING[0].now, order.customer, order.number))
        raise ValueError("no")

    policy = RetryPolicy(attempts=2, backoff_seconds=0.1, longest_backoff_seconds=0.1, jitter=0, exhausted="dead_letter")
    with harness(charge(fail, rate_limit="1/s", on_error=policy), partitions=1) as h:
        RUNNING.append(h)
        h.send_many([Order("ada", 0)])
        h.advance(seconds=10)
        assert times_of("ada") == [0.0, 1.0, 2.0]
        assert [dead_letter.attempts for dead_letter in h.dead_letters] == [3]


@pytest.mark.parametrize("point", ["before the step", "in the step", "before the commit", "after the commit"])
def test_a_crash_does_not_give_a_token_back(point: CrashPoint) -> None:
    with harness(charge(rate_limit="1/s"), partitions=1) as h:
        RUNNING.append(h)
        for _ in range(2):
            h.crash(point)
        h.send_many([Order("ada", number) for number in range(6)])
        h.advance(seconds=30)
        assert h.state("charge", "ada").numbers == list(range(6))
        starts = times_of("ada")
        assert all(later - earlier >= 0.5 for earlier, later in itertools.pairwise(starts))


def test_twice() -> None:
    """Two workers run each batch. The one that is too late takes no tokens."""
    with harness(charge(rate_limit="1/s"), partitions=1, twice=True) as h:
        RUNNING.append(h)
        h.send_many([Order("ada", number) for number in range(3)])
        h.advance(seconds=20)
        assert h.state("charge", "ada").numbers == [0, 1, 2]
        assert set(times_of("ada")) == {0.0, 1.0, 2.0}
