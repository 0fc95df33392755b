"""Computations that wait, in the harness and in `apply`: on a virtual clock, with any resources."""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field

import pytest

from celery_partitions import Context, state_computation
from celery_partitions.testing import HarnessError, apply, harness


@dataclass
class Call:
    key: str
    seconds: float


@dataclass
class Answers:
    found: list[str] = field(default_factory=list)


@state_computation(name="wait in the harness", state=Answers, key=lambda call: call.key, concurrency=10)
async def ask(call: Call, state: Answers, context: Context) -> None:
    try:
        async with asyncio.timeout(100):
            await asyncio.sleep(call.seconds)
    except TimeoutError:
        state.found.append("late")
    else:
        state.found.append(context.resources["answer"])


CALLS = [Call("a", 60), Call("b", 3600), Call("a", 99)]


def test_sleeps_and_timeouts_take_no_time() -> None:
    began = time.monotonic()
    found = apply(ask, CALLS, resources={"answer": "42"})
    assert {key: state.found for key, state in found.states.items()} == {"a": ["42", "42"], "b": ["late"]}
    assert time.monotonic() - began < 30


def test_the_harness_runs_them_too_with_a_crash() -> None:
    with harness(ask, resources={"answer": "42"}, twice=True) as h:
        h.crash("after the commit")
        for call in CALLS:
            h.send(call)
        assert h.state(ask, "a").found == ["42", "42"]


@state_computation(name="ask three times", state=Answers, key=lambda call: call.key)
async def ask_three(call: Call, state: Answers) -> None:
    for number in range(3):
        await asyncio.sleep(call.seconds)
        state.found.append(f"{call.seconds:g} {number}")


def ask_with_a_crash(at: int) -> list[str]:
    with harness(ask_three) as h:
        h.crash_at_await(at)
        for call in (Call("a", 1), Call("a", 2)):
            h.send(call)
        return h.state(ask_three, "a").found


@pytest.mark.parametrize("at", [1, 2, 3])
def test_a_worker_may_die_at_each_await(at: int) -> None:
    assert ask_with_a_crash(at) == [f"{seconds} {number}" for seconds in (1, 2) for number in range(3)]


def test_an_await_that_does_not_come_is_an_error() -> None:
    with pytest.raises(HarnessError, match="at await 4 never happened"):
        ask_with_a_crash(4)


def test_it_waits_for_a_call_in_a_thread() -> None:
    @state_computation(name="ask a thread", state=Answers, key=lambda call: call.key)
    async def through_a_thread(call: Call, state: Answers) -> None:
        state.found.append(await asyncio.to_thread(str, call.seconds))

    assert apply(through_a_thread, [Call("a", 1.5)]).states["a"].found == ["1.5"]
