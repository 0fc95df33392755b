"""Declarations of computations that wait for something: which function runs where, and what is refused."""

from __future__ import annotations

import functools
from typing import Any

import pytest

from celery_partitions import migrates
from celery_partitions import state as state_class
from celery_partitions.model.declaration import declare, key_extractor
from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.outcome import Outcome, Slot
from celery_partitions.model.single_step import single_step
from celery_partitions.model.step import step
from celery_partitions.pipeline.aggregation import Aggregation, looked_over
from tests.model.build import raw_message, read, rules, slots_for


class Seen:
    def __init__(self) -> None:
        self.messages: list[int] = []


async def waits(message: int, state: Seen) -> None:
    state.messages.append(message)


async def more_to_give(message: int, state: Seen, extra: int = 3) -> None: ...


def plain(message: int, state: Seen) -> None:
    state.messages.append(message)


class Awaited:
    async def __call__(self, message: int, state: Seen) -> None: ...


def declared(function: Any, **options: Any) -> Any:
    return declare(function, name="count", state=Seen, key=str, **options)


@pytest.mark.parametrize("function", [waits, Awaited(), functools.partial(more_to_give, extra=4)])
def test_a_function_that_returns_a_coroutine_is_async(function: Any) -> None:
    computation = declared(function, concurrency=7, strict=True)
    assert (computation.executor, computation.concurrency, computation.strict) == ("async", 7, True)
    assert computation.waiting is computation and not computation.plain_call


def test_a_blocking_function_may_run_in_threads() -> None:
    assert declared(plain, executor="threads").executor == "threads"
    assert declared(plain).waiting is None and declared(plain).plain_call


@pytest.mark.parametrize(
    ("function", "options", "says"),
    [
        (plain, {"concurrency": 5}, r"concurrency= needs an async def or executor=\"threads\""),
        (plain, {"strict": True}, "strict= needs an async def"),
        (plain, {"executor": "processes"}, "executor='processes' is not known"),
        (waits, {"executor": "threads"}, "an async def, which needs no executor="),
        (waits, {"concurrency": 0}, "must be an integer from 1 to 100,000, not 0"),
        (waits, {"concurrency": True}, "must be an integer"),
        (waits, {"strict": "yes"}, "strict must be True or False"),
    ],
)
def test_options_that_do_not_fit_the_function_are_refused(function: Any, options: dict[str, Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        declared(function, **options)


def test_a_key_extractor_cannot_be_async() -> None:
    async def extract(message: int) -> str:
        return ""

    with pytest.raises(DeclarationError, match="must be a plain function"):
        key_extractor(extract)


def test_windows_cannot_be_async() -> None:
    class Waits(Aggregation):
        def initial_accumulator(self) -> int:
            return 0

        async def update(self, message: int, accumulator: int) -> int:
            return 0

        def output(self, key: str, accumulator: int) -> int:
            return 0

    with pytest.raises(DeclarationError, match="update must be plain functions"):
        looked_over(Waits, combines=False)


def test_without_an_event_loop_a_coroutine_runs_to_its_end_at_once() -> None:
    computation = declared(waits)
    items = read([computation], [raw_message("count", number, f"m{number}") for number in (1, 2, 1)])
    slots = slots_for(items, {})
    outcome = step(items, slots, rules())
    assert len(outcome.done) == 3 and set(outcome.states["count"]) == {"1", "2"}
    slot = slots["count"]["1"]
    assert isinstance(slot, Slot) and slot.state.messages == [1, 1]


@state_class(version=2)
class Renewed:
    def __init__(self) -> None:
        self.messages: list[int] = []


@migrates(Renewed, to_version=2)
def renew(old: dict[str, Any]) -> dict[str, Any]:
    return old


@pytest.mark.parametrize("state", [Seen, Renewed])
def test_the_short_step_of_one_message_has_the_outcome_of_the_machine(state: type) -> None:
    def add(message: int, state: Any) -> None:
        state.messages.append(message)

    computation = declare(add, name="count", state=state, key=str, executor="threads")
    items = read([computation], [raw_message("count", 7)])
    slots = slots_for(items, {})
    single = single_step(items[0], slots, rules(), 1)
    assert single is not None
    computation.function(*single.call.arguments)
    single.end()
    short, usual = single.outcome(), step(items, slots_for(items, {}), rules(), mailbox_of="7")
    assert short is not None
    assert (short.states, short.versions, short.taken, short.done) == (usual.states, usual.versions, usual.taken, usual.done)
    together = Outcome()
    together.absorb(short)
    assert (together.states, together.versions, together.done) == (usual.states, usual.versions, usual.done)
