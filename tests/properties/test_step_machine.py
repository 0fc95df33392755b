"""The machine that asks for every call decides what the machine that calls by itself decides."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_partitions.model.caller import Call
from celery_partitions.model.declaration import declare
from celery_partitions.model.step import StepMachine, step
from tests.model import counting
from tests.model.build import raw_message, read, rules, slots_for
from tests.model.counting import LOG, message_to
from tests.properties.flow_world import FlowWorld, Partition
from tests.properties.flows import Flow, build_flow, flows
from tests.properties.plan import World
from tests.properties.test_pipeline_is_a_fold import drain as drain_flow
from tests.properties.test_pipeline_is_a_fold import messages as flow_messages
from tests.properties.test_pipeline_is_a_fold import turns as flow_turns
from tests.properties.test_step_is_a_fold import drain, planned, turns


class Last:
    n = 0


def contents(world: Any, *left_out: str) -> dict[str, Any]:
    return {one.name: getattr(world, one.name) for one in fields(world) if one.name not in ("inline", "memory", *left_out)}


@settings(max_examples=150)
@given(st.lists(planned, max_size=30), turns, st.integers(0, 2), st.booleans())
def test_computations(messages: list[tuple[str, str, str]], plan_of_turns: list[Any], retries: int, keeps_states: bool) -> None:
    raws = [message_to(computation, n, do, key) for n, (computation, key, do) in enumerate(messages)]
    found = []
    for inline in (True, False):
        counting.seen.clear()
        world = World(list(raws), retries, keeps_states, inline)
        drain(world, plan_of_turns)
        found.append(contents(world))
    counting.seen.clear()
    assert found[0] == found[1]


@settings(max_examples=75)
@given(flows(), flow_messages, flow_turns, st.integers(0, 2), st.booleans(), st.integers(1, 2))
def test_pipelines(flow: Flow, plan: list[Any], plan_of_turns: list[Any], retries: int, keeps_states: bool, partitions: int) -> None:
    built = build_flow(flow)
    stages = sorted(int(name.removeprefix("stage ")) for name in built.stages)
    found = []
    for inline in (True, False):
        world = FlowWorld(built, [Partition(number) for number in range(partitions)], retries, keeps_states, inline)
        for n, (source, keys, do, where) in enumerate(plan):
            value = {"n": n, "way": "", "keys": keys, "do": do, "at": stages[where % len(stages)]}
            world.send(f"source {source}", f"id-{n}", value)
        drain_flow(world, plan_of_turns)
        found.append((world.streams, [contents(at) for at in world.partitions]))
    assert found[0] == found[1]


def machine_of(raws: list[bytes], **how: Any) -> StepMachine:
    items = read([LOG], raws)
    return StepMachine(items, slots_for(items, {}), replace(rules(retries=0), inline=False), **how)


def test_a_machine_requests_calls_takes_results_and_ends() -> None:
    machine = machine_of([message_to(LOG.name, 1, ""), message_to(LOG.name, 2, "")])
    asked = []
    while machine.call is not None:
        asked.append(machine.call.arguments[0]["n"])
        with pytest.raises(RuntimeError, match="not finished"):
            _ = machine.outcome
        if asked[-1] == 1:
            machine.raised(ValueError("on purpose"))
        else:
            machine.returned(machine.call.computation.function(*machine.call.arguments))
    assert asked == [1, 2]
    assert [one.error for one in machine.outcome.failures] == ["ValueError: on purpose"]
    assert [work.message["n"] for work in machine.outcome.done] == [2]


def test_a_machine_that_is_dropped_while_it_waits_is_gone() -> None:
    machine = machine_of([message_to(LOG.name, 1, "")])
    assert machine.call is not None
    del machine


def test_only_computations_with_a_time_limit_are_asked_for_where_the_rest_is_called_inline() -> None:
    def count(message: dict[str, Any], state: Any) -> None:
        state.n = message["n"]

    quick, slow = (declare(count, name=name, state=Last, key=lambda _: "k", time_limit=limit) for name, limit in (("quick", None), ("slow", 5)))
    items = read([quick, slow], [raw_message("quick", {"n": 1}), raw_message("slow", {"n": 2})])
    asked: list[str] = []

    def call(asked_for: Call) -> None:
        asked.append(asked_for.computation.name)

    outcome = step(items, slots_for(items, {}), rules(), call=call)
    assert asked == ["slow"]
    assert len(outcome.done) == 2
