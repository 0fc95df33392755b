"""With any failures, waits, short steps and refused commits, the final states are the plain fold of the queue."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from tests.model import counting
from tests.model.counting import STATELESS, message_to
from tests.properties.plan import COMPUTATIONS, Planned, World, expected

DOINGS = ["", "", "", "", "raise", "exit", "without text", "unpicklable", "spoil message", "flaky"]
planned = st.tuples(st.sampled_from(sorted(COMPUTATIONS)), st.sampled_from("abc"), st.sampled_from(DOINGS))
turns = st.lists(
    st.tuples(
        st.integers(1, 8),  # messages requested
        st.sampled_from([0, 1, 2, 5, 100_000]),  # ticks of the clock until the step's time is over
        st.sampled_from(["queue", "queue", "mailbox", "lost"]),
    ),
    min_size=1,
    max_size=12,
)


@pytest.fixture(autouse=True)
def nothing_seen() -> Iterator[None]:
    yield
    counting.seen.clear()


def drain(world: World, plan_of_turns: list[tuple[int, int, str]]) -> None:
    """Take the planned turns, then plain turns until nothing waits."""
    for limit, ticks, what in plan_of_turns:
        parked = sorted(world.mailboxes)
        if what == "mailbox" and parked:
            world.retry(parked[limit % len(parked)], limit, ticks)
        elif world.queue:
            world.turn(limit, ticks, lost=what == "lost")
    for _ in range(2_000):
        if world.queue:
            world.turn(5, 3)
        elif world.mailboxes:
            world.retry(min(world.mailboxes), 5, 3)
        else:
            return
    pytest.fail(f"{world.waiting()} messages wait forever")


@settings(max_examples=300)
@example([("alone", "a", "flaky"), ("alone", "a", ""), ("log", "a", "raise"), ("alone", "a", "")], [], 1, True)
@given(st.lists(planned, max_size=30), turns, st.integers(0, 2), st.booleans())
def test_states_are_the_fold_of_the_queue_and_every_message_ends_once(
    messages: list[tuple[str, str, str]],
    plan_of_turns: list[tuple[int, int, str]],
    retries: int,
    keeps_states: bool,
) -> None:
    plan = [Planned(n, *each) for n, each in enumerate(messages)]
    raws = [message_to(each.computation, each.n, each.do, each.key) for each in plan]
    world = World(list(raws), retries, keeps_states)
    drain(world, plan_of_turns)

    wanted = expected(plan, retries)
    assert world.logs() == {at: log for at, log in wanted.items() if at[0] != STATELESS.name}
    hopeless = [raw for raw, each in zip(raws, plan, strict=True) if not each.counts(retries)]
    assert sorted(world.dead) == sorted(hopeless)
    assert len(world.done) + len(world.dead) == len(plan)
    assert _in_order(world.done, dict(zip(raws, plan, strict=True))) == wanted


def _in_order(done: list[bytes], plan: dict[bytes, Planned]) -> dict[tuple[str, str], list[int]]:
    """The numbers of the applied messages, by computation and key, in the order of their commits."""
    logs: dict[tuple[str, str], list[int]] = {}
    for each in map(plan.__getitem__, done):
        logs.setdefault((each.computation, each.key), []).append(each.n)
    return logs


@given(st.lists(st.tuples(st.sampled_from(["log", "second"]), st.sampled_from(["", "raise"])), min_size=1, max_size=30))
def test_a_parked_keys_mailbox_keeps_the_order_of_the_queue_across_computations(
    messages: list[tuple[str, str]],
) -> None:
    raws = [message_to(name, n, do) for n, (name, do) in enumerate(messages)]
    world = World(list(raws), retries=2, keeps_states=True)
    world.turn(len(raws), 100_000)
    first_failure = next((n for n, (_, do) in enumerate(messages) if do == "raise"), len(messages))
    assert world.mailboxes.get("k", []) == raws[first_failure:]
