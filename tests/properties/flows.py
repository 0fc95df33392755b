"""Random pipelines, each in two forms: a pipeline for the engine, and a tree for a naive fold.

Stages do what the value says: `do` names a stage (by its number) and what happens there. Each stage logs the values it gets.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from hypothesis import strategies as st

from celery_partitions.model.computation import Computation, Context
from celery_partitions.model.declaration import declare
from celery_partitions.pipeline.builder import Built, build
from celery_partitions.pipeline.graph import Pipeline, Source
from celery_partitions.pipeline.sinks import RedisStream

#: Raises, or damages the state, at every attempt.
HOPELESS = ("raise", "unpicklable", "no list", "no key")
DOINGS = ("", "", "", "", "", "none", "raise", "flaky", "unpicklable", "no list", "no key", "keep", "tuple", "spoil")


class Log:
    entries: list[Any] = []  # noqa: RUF012 - each key gets its own copy


class Failed(Exception):
    """Raised by the naive fold: the message has no effect."""


@dataclass
class Spot:
    """A node of the tree: a stage, a key_by or a sink, and the nodes after it."""

    kind: str
    number: int
    stateful: bool = False
    multi: bool = False
    then: list[Spot] = field(default_factory=list)


@dataclass
class Flow:
    """Two sources that lead to the same tree, each after its own first nodes."""

    beginnings: list[Spot]
    tree: Spot

    def entries(self) -> dict[str, list[Spot]]:
        """Where a message enters, by the name of its task."""
        entries: dict[str, list[Spot]] = {}

        def whole(spot: Spot) -> Spot:
            return self.tree if spot.kind == "nothing" else replace(spot, then=[whole(one) for one in spot.then])

        def look(spot: Spot) -> None:
            if spot.kind == "stage":
                entries[f"stage {spot.number}"] = [spot]
            for one in spot.then:
                look(one)

        for index, beginning in enumerate(self.beginnings):
            first = whole(beginning)
            look(first)
            entries[f"source {index}"] = first.then if first.kind == "key_by" else [first]
        return entries


def act(number: int, multi: bool, value: dict[str, Any], log: list[Any] | None, attempt: int) -> Any:
    """What a stage does. The engine and the fold call this with their own states."""
    do = value["do"] if value["at"] == number else ""
    if log is not None:
        log.append([value["n"], value["way"], value.get("kept")])
    if do in ("raise", "unpicklable") or (do == "flaky" and attempt == 1):
        if do == "unpicklable" and log is not None:
            log.append(lambda: None)
        else:
            raise ValueError(do)
    if do == "no list" and multi:
        return (value,)
    if do == "no list":
        raise ValueError(do)
    if do == "none":
        return None
    made = {**value, "way": f"{value['way']}/{number}"}
    if do == "no key":
        made["keys"] = None
    if do == "keep":
        made["kept"] = log  # the same object that the state holds
    if do == "tuple":
        made["x"] = ({1: b"\xff"}, float("inf"))
    if do == "spoil":
        value.clear()
        made["kept"] = [number]
    if isinstance(made.get("kept"), list):
        made["kept"].append(number)  # changes a copy: the list of the previous stage must stay unchanged
    if not multi:
        return made
    return [{**made, "way": made["way"] + "a"}, None, {**made, "way": made["way"] + "b", "kept": [1]}]


def computation_of(spot: Spot) -> Computation:
    name, multi = f"stage {spot.number}", spot.multi

    def with_state(value: Any, state: Log, context: Context) -> Any:
        return act(spot.number, multi, value, state.entries, context.attempt)

    def without(value: Any, context: Context) -> Any:
        return act(spot.number, multi, value, None, context.attempt)

    return declare(
        with_state if spot.stateful else without, name=name, state=Log if spot.stateful else None, key=None, multi=multi
    )


def key_by(number: int) -> Callable[[dict[str, Any]], str]:
    def extract(value: dict[str, Any]) -> str:
        return str(value["keys"][number % 3])

    return extract


def build_flow(flow: Flow) -> Built:
    """The flow as an application."""
    begun = []
    for index, beginning in enumerate(flow.beginnings):
        begun.append(_follow(Pipeline((Source(f"source {index}", None, None, None, None),)), [beginning])[0])
    merged = begun[0].merge(begun[1])
    ended = _follow(merged, [flow.tree])
    whole = ended[0]
    for one in ended[1:]:
        whole = whole.merge(one)
    return build("flow", whole)


def _follow(pipeline: Pipeline, spots: list[Spot]) -> list[Pipeline]:
    ends = []
    for spot in spots:
        match spot.kind:
            case "nothing":
                ends.append(pipeline)
            case "sink":
                ends.append(pipeline.to_sink(RedisStream(f"sink {spot.number}")))
            case "key_by":
                ends += _follow(pipeline.key_by(key_by(spot.number)), spot.then)
            case _:
                ends += _follow(pipeline.to(computation_of(spot)), spot.then)
    return ends


@dataclass
class Fold:
    """Applies one message at a time, on plain dicts."""

    flow: Flow
    retries: int
    #: (stage number, key) → log.
    logs: dict[tuple[int, str], list[Any]] = field(default_factory=dict)

    def apply(self, roots: list[Spot], key: str, value: dict[str, Any]) -> list[tuple[str, int, str, Any]]:
        """The outputs of a message: (kind, number, key, value). If it raises `Failed`, nothing has changed."""
        logs, outputs = copy.deepcopy(self.logs), []
        try:
            self._give(roots, key, copy.deepcopy(value), outputs, logs)
        except Exception as error:
            raise Failed from error
        self.logs = logs
        return outputs

    def _give(self, spots: list[Spot], key: str, value: Any, outputs: list[Any], logs: dict[Any, Any]) -> None:
        for spot in sorted(spots, key=lambda one: one.kind == "stage"):
            own = copy.deepcopy(value)
            if spot.kind == "sink":
                outputs.append(("sink", spot.number, key, own))
            elif spot.kind == "key_by":
                there = key_by(spot.number)(own)
                for one in spot.then:
                    outputs.append((one.kind, one.number, there, own))
            else:
                self._stage(spot, key, own, outputs, logs)

    def _stage(self, spot: Spot, key: str, value: Any, outputs: list[Any], logs: dict[Any, Any]) -> None:
        log = logs.setdefault((spot.number, key), []) if spot.stateful else None
        returned = act(spot.number, spot.multi, value, log, 2 if self.retries else 1)
        if log is not None and any(callable(entry) for entry in log):
            raise ValueError("unpicklable")
        if log is not None:
            returned = copy.deepcopy(returned)
        if spot.multi and returned is not None and type(returned) is not list:
            raise TypeError("no list")
        for one in returned if spot.multi and returned is not None else [returned]:
            if one is not None:
                self._give(spot.then, key, one, outputs, logs)


# Random flows.


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    numbers = iter(range(1_000))

    def spot(kind: str, then: list[Spot]) -> Spot:
        stage = kind == "stage"
        return Spot(kind, next(numbers), stage and draw(st.booleans()), stage and draw(st.integers(0, 3)) == 0, then)

    def spots(depth: int, after_key: bool = False) -> list[Spot]:
        kinds = ["stage", "stage", "sink"] if after_key else ["stage", "stage", "key_by", "sink"]
        count = draw(st.sampled_from([1, 1, 2]))
        made = []
        for _ in range(count):
            kind = draw(st.sampled_from(kinds)) if depth else "sink"
            then = [] if kind == "sink" else spots(depth - 1, kind == "key_by")
            made.append(spot(kind, then))
        return made

    def beginning() -> Spot:
        match draw(st.sampled_from(["nothing", "stage", "key_by", "key_by", "stage key_by"])):
            case "nothing" | "stage" as kind:
                return spot(kind, [] if kind == "nothing" else [Spot("nothing", -1)])
            case "key_by":
                return spot("key_by", [Spot("nothing", -1)])
            case _:
                return spot("stage", [spot("key_by", [Spot("nothing", -1)])])

    tree = spot("stage", spots(3))
    return Flow([beginning(), beginning()], tree)
