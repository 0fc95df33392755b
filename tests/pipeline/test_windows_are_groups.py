"""Whatever arrives when, the output of a window is what its definition gives for all messages, at the time when it closes."""

from __future__ import annotations

import pickle
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from celery_partitions.pipeline.window_stage import RangeWindows
from celery_partitions.pipeline.windows import LateDataPolicy, range_windows, seconds
from tests.pipeline.naive import Engine, Gather, GatherImmutably, Naive

POLICIES: list[LateDataPolicy] = ["drop", "fire-per-message", "place-in-oldest-window"]

#: (seconds before the message, its event time minus some thousands; None for the time of arrival)
arrivals = st.lists(st.tuples(st.integers(0, 12), st.one_of(st.none(), st.integers(-20, 40))), max_size=30)
#: Event times that increase, slightly out of order.
in_time = st.lists(st.tuples(st.integers(0, 6), st.integers(-6, 0)), max_size=40)


@st.composite
def all_windows(draw: st.DrawFn, policies: list[LateDataPolicy] = POLICIES) -> RangeWindows:
    range_s = draw(st.integers(1, 12))
    builder = range_windows(seconds(range_s)).with_slide(seconds(draw(st.integers(1, range_s))))
    builder.with_delay(seconds(draw(st.integers(0, 9)))).with_late_data_policy(draw(st.sampled_from(policies)))
    return builder.over(draw(st.sampled_from([Gather, GatherImmutably])))


def check(windows: RangeWindows, messages: list[tuple[int, int | None]], stored: bool) -> None:
    """Check second by second that the outputs are those of the naive model, and that no window is open at the end."""
    engine, naive, now = Engine(windows), Naive(windows), 1_000
    engine.now = now

    def quiet(until: int) -> None:
        for at in range(now + 1, until + 1):
            gave = [one for _, out in engine.go_to(at) for one in out]
            assert gave == [("key", wanted) for wanted in naive.at(at)]

    for number, (passes, event_time) in enumerate(messages):
        quiet(now + passes)
        now += passes
        if stored:
            engine.state = pickle.loads(pickle.dumps(engine.state, 5))
        assert engine.take(number, event_time) == [("key", one) for one in naive.take(number, event_time, now)]
    quiet(now + 200)
    assert not naive.open()
    assert windows.due(engine.state) is None
    assert not engine.state.accumulators


@given(all_windows(), arrivals, st.booleans())
@settings(max_examples=300)
def test_any_event_times(windows: RangeWindows, messages: list[tuple[int, int | None]], stored: bool) -> None:
    check(windows, messages, stored)


@given(all_windows(), in_time, st.integers(0, 3), st.booleans())
@settings(max_examples=300)
def test_increasing_event_times(
    windows: RangeWindows, messages: list[tuple[int, int]], pace: int, stored: bool
) -> None:
    """`pace`: seconds of event time per second of the clock; 0 is a key whose event time does not advance."""
    clock, timed = 0, []
    for passes, behind in messages:
        clock += passes
        timed.append((passes, 5_000 + clock * pace + behind))
    check(windows, timed, stored)


@given(all_windows(), st.lists(st.integers(0, 12), max_size=30), st.booleans())
def test_arrival_time_is_never_late(windows: RangeWindows, passes: list[int], stored: bool) -> None:
    check(windows, [(each, None) for each in passes], stored)
    engine, given_out = Engine(windows), []
    for number, each in enumerate(passes):
        given_out += [one for _, out in engine.go_to(engine.now + each) for one in out]
        given_out += engine.take(number)
    given_out += [one for _, out in engine.go_to(engine.now + 100) for one in out]
    in_each = -(-windows.range // windows.slide)
    for number in range(len(passes)):
        windows_with_it = sum(number in one for _, one in given_out)
        assert in_each - 1 <= windows_with_it <= in_each
        assert windows_with_it == in_each or windows.range % windows.slide


@given(all_windows(POLICIES[1:]), arrivals, st.lists(st.integers(0, 9), min_size=30, max_size=30))
def test_a_timer_that_fires_late_or_twice_loses_nothing_and_outputs_nothing_twice(
    windows: RangeWindows, messages: list[tuple[int, int | None]], late_by: list[int]
) -> None:
    state, now, out = windows.new_state(), 1_000.0, list[tuple[str, list[int]]]()
    for number, ((passes, event_time), late) in enumerate(zip(messages, late_by, strict=False)):
        now += passes
        due = windows.due(state)
        if due is not None and due + late <= now:
            out += windows.fire(state, "key", now)
            assert windows.fire(state, "key", now) == []
        out += windows.take(state, number, "key", event_time, now)
    while (due := windows.due(state)) is not None:
        fired = windows.fire(state, "key", max(now, due))
        assert fired
        out += fired
    in_each = -(-windows.range // windows.slide)
    for number in range(len(messages)):
        assert 1 <= sum(number in one for _, one in out) <= in_each


@pytest.mark.parametrize("slide", [1, 2, 5])
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 99)), max_size=30))
def test_an_output_may_be_changed(slide: int, messages: list[tuple[int, int]]) -> None:
    """The stage after the window gets the output object with the messages in it, and may change them."""
    windows = range_windows(seconds(5)).with_slide(seconds(slide)).over(Gather)
    alone, spoiled = Engine(windows), Engine(windows)

    def at(engine: Engine, passes: int, number: int) -> list[Any]:
        due = [one for _, out in engine.go_to(engine.now + passes) for one in out]
        return due + engine.take([number])

    for passes, number in messages:
        wanted, got = at(alone, passes, number), at(spoiled, passes, number)
        assert got == wanted
        for _, given_out in got:
            for message in given_out:
                message.append("spoiled")
            given_out.clear()
