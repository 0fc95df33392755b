"""In any pipeline, with any failures, short steps and refused commits, the states, outputs and dead letters of every key are
those of a naive fold over its messages."""

from __future__ import annotations

from collections import defaultdict
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_partitions.model.effects import Delivery, Hop
from celery_partitions.model.message_codec import write_message
from tests.properties.flow_world import CODEC, FlowWorld, Partition, header
from tests.properties.flows import DOINGS, Failed, Flow, Fold, build_flow, flows

#: (source, keys, what happens, at which of the flow's stages)
messages = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.lists(st.sampled_from("abc"), min_size=3, max_size=3),
        st.sampled_from(DOINGS),
        st.integers(0, 11),
    ),
    max_size=14,
)
turns = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.integers(1, 6),
        st.sampled_from([0, 1, 3, 100_000]),
        st.sampled_from(["queue", "queue", "mailbox", "lost"]),
    ),
    min_size=1,
    max_size=10,
)


def drain(world: FlowWorld, plan: list[tuple[int, int, int, str]]) -> None:
    """Take the planned turns, then plain turns until nothing waits."""
    for number, limit, ticks, what in plan:
        at = world.partitions[number % len(world.partitions)]
        parked = sorted(at.mailboxes)
        if what == "mailbox" and parked:
            world.retry(at, parked[limit % len(parked)], limit, ticks)
        elif at.queue:
            world.turn(at, limit, ticks, lost=what == "lost")
    for _ in range(5_000):
        if not world.waiting():
            return
        for at in world.partitions:
            if at.queue:
                world.turn(at, 5, 3)
            elif at.mailboxes:
                world.retry(at, min(at.mailboxes), 5, 3)
    pytest.fail(f"{world.waiting()} messages wait forever")


def described(world: FlowWorld, at: Partition, emission: Hop | Delivery) -> tuple[str, tuple[str, int, str, Any]]:
    """The id of an output, and its description in the form of the fold."""
    if isinstance(emission, Delivery):
        number = int(emission.sink.name.removeprefix("sink "))
        return emission.message_id, ("sink", number, emission.key, emission.payload)
    (item,) = world.read(world.partitions[emission.partition], [emission.raw])
    number = int(item.computation.name.removeprefix("stage "))
    assert header(emission.raw, "parent_id") == item.envelope.headers.id.rpartition(":")[0]
    assert header(emission.raw, "root_id") == item.envelope.headers.id.partition(":")[0]
    return item.envelope.headers.id, ("stage", number, item.key, item.message)


def check(world: FlowWorld, flow: Flow, retries: int) -> None:
    """Check each key of each partition separately: its messages in the order of arrival, one at a time."""
    entries, fold = flow.entries(), Fold(flow, retries)
    for at in world.partitions:
        put_out: dict[str, list[Any]] = defaultdict(list)
        key_of: dict[str, str] = {}
        items = world.read(at, at.arrived)
        assert len({item.envelope.headers.id for item in items}) == len(items)
        wanted: dict[str, list[Any]] = defaultdict(list)
        dead = []
        for item in items:
            message_id = item.envelope.headers.id
            key_of[message_id] = item.key
            try:
                outputs = fold.apply(entries[item.computation.name], item.key, item.message)
            except Failed:
                dead.append(item.raw)
                continue
            for number, (kind, *rest, value) in enumerate(outputs):
                payload = write_message(value) if kind == "sink" else value
                wanted[item.key].append((f"{message_id}:{number}", (kind, *rest, payload)))
        for emission in at.put_out:
            output_id, what = described(world, at, emission)
            put_out[key_of[output_id.rpartition(":")[0]]].append((output_id, what))
        assert put_out == wanted
        assert sorted(at.dead) == sorted(dead)
        assert len(at.done) + len(at.dead) == len(items)
    streams: dict[str, list[Any]] = defaultdict(list)
    for emission in (one for at in world.partitions for one in at.put_out if isinstance(one, Delivery)):
        streams[emission.sink.name].append((emission.message_id, emission.payload))
    assert {name: sorted(entries) for name, entries in world.streams.items()} == {
        name: sorted(entries) for name, entries in streams.items()
    }
    logs = {
        (stage.name, key): CODEC.load(stage, key, stored).entries
        for at in world.partitions
        for stage in world.built.stages.values()
        for key, stored in at.stored.get(stage.name, {}).items()
    }
    assert logs == {(f"stage {number}", key): log for (number, key), log in fold.logs.items()}


@settings(max_examples=150)
@given(flows(), messages, turns, st.integers(0, 2), st.booleans(), st.integers(1, 2))
def test_states_outputs_and_dead_letters_are_the_fold_of_what_arrived(
    flow: Flow, plan: list[Any], plan_of_turns: list[Any], retries: int, keeps_states: bool, partitions: int
) -> None:
    built = build_flow(flow)
    stages = sorted(int(name.removeprefix("stage ")) for name in built.stages)
    world = FlowWorld(built, [Partition(number) for number in range(partitions)], retries, keeps_states)
    for n, (source, keys, do, where) in enumerate(plan):
        value = {"n": n, "way": "", "keys": keys, "do": do, "at": stages[where % len(stages)]}
        world.send(f"source {source}", f"id-{n}", value)
    drain(world, plan_of_turns)
    check(world, flow, retries)
