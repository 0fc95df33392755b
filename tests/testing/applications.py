"""The pipelines that the workers of `test_agreement` run: those of the scenarios and of `tests.support.applications.pipelines`."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field

from celery_partitions import (
    Aggregation,
    CallableSink,
    Context,
    OneKeyWarning,
    RedisList,
    RedisStream,
    RetryPolicy,
    TaskSink,
    app,
    build_application,
    computation,
    computation_multi,
    count_windows,
    key_extractor,
    range_windows,
    seconds,
    source,
    state_computation,
)
from celery_partitions.model.policy import Exhausted
from tests.support.applications import pipelines

__all__ = ["app", "pipelines"]


@dataclass
class Amount:
    key: str
    amount: int
    at: float = 0.0


class Total:
    total = 0


@dataclass
class Known:
    seen: list[int] = field(default_factory=list)


@key_extractor
def key_of(amount: Amount) -> str:
    return amount.key


@key_extractor
def first_of(pair: tuple[str, int]) -> str:
    return pair[0]


# Failures: a pipeline for each policy. An amount of 13 always fails, one of 7 twice; 17 makes the state unpicklable; 19 fails a stage later.


def _failing(exhausted: Exhausted, attempts: int, backoff_seconds: float) -> None:
    policy = RetryPolicy(attempts=attempts, backoff_seconds=backoff_seconds, jitter=0, exhausted=exhausted)

    @state_computation(f"add or {exhausted}", state=Known, on_error=policy)
    def add(amount: Amount, known: Known, context: Context) -> list[object]:
        known.seen.append(amount.amount)
        if amount.amount == 13 or (amount.amount == 7 and context.attempt < 3):
            raise ValueError(f"{amount.amount} is unlucky")
        if amount.amount == 17:
            known.seen.append(lambda: None)  # type: ignore[arg-type]
        return [amount.key, amount.amount]

    @state_computation(f"after {exhausted}", state=Total, on_error=policy)
    def after(added: list[object], total: Total) -> list[object]:
        total.total += 1
        if added[1] == 19:
            raise ValueError("19 is too much")
        return [added[0], total.total]

    beginning = source(f"amounts or {exhausted}", type=Amount)
    middle = beginning.key_by(key_of).to(add)
    direct, ended = middle.to_sink(RedisList(f"direct or {exhausted}")), middle.to(after).to_sink(RedisList(f"added or {exhausted}"))
    build_application(f"failing: {exhausted}", direct.merge(ended))


_failing("dead_letter", 2, 0.05)
_failing("park", 0, 300)
_failing("hold", 0, 0.05)


class Stopped:
    tries = 0


@state_computation("add or stop", state=Total, on_error=RetryPolicy(attempts=0, exhausted="stop"))
def add_or_stop(amount: Amount, total: Total, context: Context) -> list[object]:
    total.total += amount.amount
    if amount.amount == 13 and context.attempt == 1:
        raise ValueError("13 is unlucky")
    return [amount.key, total.total]


stopping = source("amounts or stop", type=Amount)
build_application("failing: stop", stopping.key_by(key_of).to(add_or_stop).to_sink(RedisList("added or stop")))

# A multi: None elements are dropped, None ends the path, and anything that is not a list is an error.


@computation_multi("spread out", on_error=RetryPolicy(attempts=0, exhausted="dead_letter"))
def spread_out(amount: Amount) -> list[Amount | None] | None:
    match amount.amount:
        case 0:
            return None
        case 1:
            return (amount,)  # type: ignore[return-value]
        case _:
            return [Amount(amount.key, number) if number % 2 else None for number in range(amount.amount)]


@state_computation("sum up", state=Total)
def sum_up(amount: Amount, total: Total) -> tuple[str, int] | None:
    total.total += amount.amount
    return None if amount.amount == 3 else (amount.key, total.total)


multi = source("to spread out", type=Amount)
build_application("multi", multi.to(spread_out).key_by(key_of).to(sum_up).to_sink(RedisStream("summed up")))

# A branch: the outputs of one stage go to two sinks, to a stage with another key, to a task, and to a computation with a key.


@state_computation("twice as much", state=Total)
def double(amount: Amount, total: Total) -> tuple[str, int]:
    total.total += 2 * amount.amount
    return amount.key, total.total


@state_computation("keep even", state=Known)
def keep_even(pair: tuple[str, int], known: Known) -> tuple[str, list[int]] | None:
    known.seen.append(pair[1])
    return (pair[0], known.seen) if pair[1] % 4 == 0 else None


@key_extractor
def turned(pair: tuple[str, int]) -> str:
    return pair[0][::-1]


@computation("say")
def say(pair: tuple[str, int]) -> Amount:
    return Amount(*pair)


@state_computation("of its own", state=Known, key=key_of)
def of_its_own(amount: Amount, known: Known) -> None:
    known.seen.append(amount.amount)


def shout(pair: tuple[str, int]) -> None:
    raise AssertionError("the harness must not call the function of a sink")


branching = source("to double", type=Amount)
doubled = branching.key_by(key_of).to(double)
build_application(
    "branch",
    doubled.to_sinks([RedisList("doubled"), CallableSink(shout), TaskSink("elsewhere", queue="elsewhere")])
    .merge(doubled.key_by(turned).to(keep_even).to_sink(RedisStream("kept even", encoder=lambda pair: f"{pair[0]}:{pair[1]}")))
    .merge(doubled.to(say).to_sink(of_its_own)),
)

# Two sources merged before one stage, and everything collected under one key after it.


@state_computation("count all", state=Total)
def count_all(pair: tuple[str, int], total: Total) -> int:
    total.total += 1
    return total.total


left, right = source("from the left", type=Amount), source("from the right", type=Amount)
merged = left.key_by(key_of).merge(right.key_by(key_of)).to(double, name="double both")
counted = merged.collect().to(count_all, name="count both").to_sink(RedisList("counted both"))
with warnings.catch_warnings():
    warnings.simplefilter("ignore", OneKeyWarning)  # one key is intended here
    build_application("merged", merged.to_sink(RedisList("doubled both")).merge(counted))

# Windows by event time, and by count.


class Gather(Aggregation):
    def initial_accumulator(self) -> list[int]:
        return []

    def update(self, amount: Amount, accumulator: list[int]) -> None:
        accumulator.append(amount.amount)

    def combine(self, first: list[int], second: list[int]) -> list[int]:
        return first + second

    def output(self, key: str, accumulator: list[int]) -> list[object]:
        return [key, accumulator]


timed = source("timed", type=Amount, event_time=lambda amount: amount.at)
build_application("by time", timed.key_by(key_of).to(range_windows(seconds(2)).over(Gather)).to_sink(RedisList("by time")))

numbered = source("numbered", type=Amount)
build_application(
    "by number", numbered.key_by(key_of).to(count_windows(3).over(Gather), name="threes").to_sink(RedisList("by number"))
)
