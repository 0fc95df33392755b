"""Scenarios: messages and their expected results. `test_agreement` runs each in a harness and on real workers."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from celery_partitions.admin.state_json import plain_value
from celery_partitions.testing import View
from tests.support.applications.pipelines import Number, Order, Quote
from tests.testing.applications import Amount


@dataclass(frozen=True, kw_only=True)
class Scenario:
    """`sends`: source and messages, in this order. `done`: whether all has come of them that will."""

    name: str
    #: The application's name.
    application: str
    sends: Sequence[tuple[str, Sequence[object]]]
    done: Callable[[View], bool]
    stages: tuple[str, ...] = ()
    #: Of each output of a sink, which key's it is: only a key's outputs have an order.
    sinks: dict[str, Callable[[Any], object]] = field(default_factory=dict)
    #: Names of messages: whose dead letters and parked keys are the scenario's.
    tasks: tuple[str, ...] = ()
    #: Of virtual time, until it is done.
    seconds: float = 0.0
    #: Some of what must be seen, so that two that agree are not both wrong.
    expected: dict[str, Any] = field(default_factory=dict)


def seen(scenario: Scenario, view: View) -> dict[str, Any]:
    """Everything that the scenario is about, as values that can be compared."""
    found: dict[str, Any] = {}
    for stage in scenario.stages:
        found[f"states of {stage}"] = {key: plain_value(state) for key, state in view.states(stage).items()}
    for sink, key_of in scenario.sinks.items():
        outputs = defaultdict(list)
        for output in view.outputs(sink):
            outputs[key_of(output)].append(output)
        found[f"outputs to {sink}"] = dict(outputs)
    mine = (*scenario.tasks, *(source for source, _ in scenario.sends))
    dead_letters = [dead_letter for dead_letter in view.dead_letters if dead_letter.task in mine]
    found["dead letters"] = sorted(
        (one.task or "", one.key or "", one.reason, one.error, one.attempts, one.in_place) for one in dead_letters
    )
    found["parked"] = {
        key: (one.error, one.attempt, one.waiting, one.due is None)
        for key, one in view.parked.items()
        if one.task in mine
    }
    return found


def has(count: int, sink: str) -> Callable[[View], bool]:
    """Done once a sink has this many outputs. The comparison would show additional ones."""
    return lambda view: len(view.outputs(sink)) >= count


def is_parked(key: str, waiting: int) -> Callable[[View], bool]:
    """Done once this many messages wait for the key."""
    return lambda view: key in view.parked and view.parked[key].waiting == waiting


def first(output: Sequence[Any]) -> object:
    return output[0]


def both(*conditions: Callable[[View], bool]) -> Callable[[View], bool]:
    return lambda view: all(condition(view) for condition in conditions)


TEXT = ["the cat and the dog", "a cat", "", "the end of  the day", "and the cat"]
KEYS = [f"key-{number}" for number in range(6)]


def _amounts(*pairs: tuple[str, int]) -> list[Amount]:
    return [Amount(key, amount) for key, amount in pairs]


def _spread() -> Iterable[tuple[str, list[object]]]:
    for number in range(12):
        for symbol in ("AAPL", "MSFT"):
            yield "market data", [Quote(symbol, 100.0, 110.0 if number % 3 else 100.5)]
            yield "orders", [Order(symbol, number)]


def _unlucky(of: str) -> list[Amount]:
    """Each scenario uses different keys, because a parked key holds back messages of every computation."""
    keys_and_amounts = [("a", 1), ("b", 2), ("a", 13), ("b", 3), ("a", 4), ("c", 5), ("a", 6)]
    return [Amount(f"{key} {of}", amount) for key, amount in keys_and_amounts]

SCENARIOS = [
    Scenario(
        name="word count",
        application="words",
        sends=[("lines", TEXT * 10)],
        done=has(150, "counted"),
        stages=("count",),
        sinks={"counted": first},
        expected={"states of count": {w: {"n": 10 * n} for w, n in {"the": 5, "cat": 3, "and": 2, "dog": 1, "a": 1, "end": 1, "of": 1, "day": 1}.items()}},
    ),
    Scenario(
        name="market spread",
        application="market spread",
        sends=list(_spread()),
        done=has(16, "alerts"),
        stages=("spread",),
        sinks={"alerts": first},
        expected={"outputs to alerts": {symbol: [[symbol, number] for number in range(12) if number % 3] for symbol in ("AAPL", "MSFT")}},
    ),
    Scenario(
        name="three hops",
        application="windows",
        sends=[("numbers", [Number(key, number) for number in range(1, 31) for key in KEYS])],
        done=both(has(180, "one hop"), has(180, "two hops"), has(180, "three hops")),
        stages=("first window", "next window", "next window 2"),
        sinks=dict.fromkeys(("one hop", "two hops", "three hops"), lambda output: output["key"]),
    ),
    Scenario(
        name="retries, then a dead letter",
        application="failing: dead_letter",
        sends=[("amounts or dead_letter", [*_unlucky("given up"), *(Amount("b given up", number) for number in (7, 17, 8, 19, 9))])],
        done=both(has(9, "added or dead_letter"), lambda view: not view.parked.keys() & {"a given up", "b given up"}),
        stages=("add or dead_letter", "after dead_letter"),
        sinks={"direct or dead_letter": first, "added or dead_letter": first},
        seconds=10,
        expected={
            "states of add or dead_letter": {
                "a given up": {"seen": [1, 4, 6]},
                "b given up": {"seen": [2, 3, 7, 8, 9]},
                "c given up": {"seen": [5]},
            },
            "outputs to direct or dead_letter": {
                f"{key} given up": [[f"{key} given up", number] for number in numbers]
                for key, numbers in {"a": (1, 4, 6), "b": (2, 3, 7, 8, 9), "c": (5,)}.items()
            },
            "outputs to added or dead_letter": {
                f"{key} given up": [[f"{key} given up", number + 1] for number in range(count)]
                for key, count in {"a": 3, "b": 5, "c": 1}.items()
            },
        },
    ),
    Scenario(
        name="parked",
        application="failing: park",
        sends=[("amounts or park", _unlucky("parked"))],
        done=both(has(4, "added or park"), is_parked("a parked", waiting=3)),
        stages=("add or park", "after park"),
        sinks={"direct or park": first, "added or park": first},
        seconds=1,
        expected={
            "parked": {"a parked": ("ValueError: 13 is unlucky", 2, 3, False)},
            "states of add or park": {
                f"{key} parked": {"seen": seen} for key, seen in {"a": [1], "b": [2, 3], "c": [5]}.items()
            },
        },
    ),
    Scenario(
        name="held",
        application="failing: hold",
        sends=[("amounts or hold", _unlucky("held"))],
        done=both(has(4, "added or hold"), is_parked("a held", waiting=3)),
        stages=("add or hold", "after hold"),
        sinks={"direct or hold": first, "added or hold": first},
        seconds=1,
        expected={
            "parked": {"a held": ("ValueError: 13 is unlucky", 2, 3, True)},
            "dead letters": [("amounts or hold", "a held", "computation-failed", "ValueError: 13 is unlucky", 1, True)],
        },
    ),
    Scenario(
        name="a multi with None",
        application="multi",
        sends=[("to spread out", _amounts(("a", 6), ("b", 0), ("c", 1), ("b", 4), ("a", 2), ("d", 0)))],
        done=both(has(4, "summed up"), lambda view: any(one.task == "to spread out" for one in view.dead_letters)),
        stages=("sum up",),
        sinks={"summed up": first},
        expected={
            "states of sum up": {"a": {"total": 10}, "b": {"total": 4}},
            "outputs to summed up": {"a": [["a", 1], ["a", 9], ["a", 10]], "b": [["b", 1]]},
            "dead letters": [
                ("to spread out", "to spread out", "computation-failed", "TypeError: 'spread out' must return a list of outputs, or None, not tuple", 1, False)
            ],
        },
    ),
    Scenario(
        name="a branch",
        application="branch",
        sends=[("to double", [Amount(key, number) for number in range(1, 6) for key in ("ab", "cd")])],
        done=both(
            *(has(10, sink) for sink in ("doubled", "shout", "elsewhere")),
            has(4, "kept even"),
            lambda view: sum(len(state.seen) for state in view.states("of its own").values()) == 10,
        ),
        stages=("twice as much", "keep even", "of its own"),
        sinks={"doubled": first, "shout": first, "elsewhere": first, "kept even": lambda output: output[:2]},
        tasks=("keep even", "of its own"),
        expected={
            "outputs to kept even": {key.encode(): [f"{key}:[2, 6, 12]".encode(), f"{key}:[2, 6, 12, 20]".encode()] for key in ("ab", "cd")},
            "states of of its own": {key: {"seen": [2, 6, 12, 20, 30]} for key in ("ab", "cd")},
        },
    ),
    Scenario(
        name="merged and collected",
        application="merged",
        sends=[(side, [Amount(key, number)]) for number in range(5) for side in ("from the left", "from the right") for key in ("a", "b")],
        done=both(has(20, "doubled both"), has(20, "counted both")),
        stages=("double both", "count both"),
        sinks={"doubled both": first, "counted both": lambda output: ""},
        expected={"states of count both": {"count both": {"total": 20}}, "outputs to counted both": {"": list(range(1, 21))}},
    ),
    Scenario(
        name="windows of time",
        application="by time",
        sends=[("timed", [Amount(key, number, 100 + at) for number, at in enumerate([0, 0.5, 1.9, 2, 4.5, 3, 7]) for key in ("a", "b")])],
        done=has(8, "by time"),
        sinks={"by time": first},
        seconds=10,
        expected={"outputs to by time": {key: [[key, [0, 1, 2]], [key, [3]], [key, [4]], [key, [6]]] for key in ("a", "b")}},
    ),
    Scenario(
        name="windows of a number",
        application="by number",
        sends=[("numbered", [Amount(key, number) for number in range(8) for key in ("a", "b")])],
        done=has(6, "by number"),
        sinks={"by number": first},
        seconds=10,
        expected={"outputs to by number": {key: [[key, [0, 1, 2]], [key, [3, 4, 5]], [key, [6, 7]]] for key in ("a", "b")}},
    ),
]

#: So much that a worker dies over it: every window of every key through three hops.
MUCH = Scenario(
    name="three hops, at length",
    application="windows",
    sends=[("numbers", [Number(f"key-{key}", number) for number in range(1, 201) for key in range(20)])],
    done=both(has(4000, "one hop"), has(4000, "two hops"), has(4000, "three hops")),
    stages=("first window", "next window", "next window 2"),
    sinks=dict.fromkeys(("one hop", "two hops", "three hops"), lambda output: output["key"]),
)
