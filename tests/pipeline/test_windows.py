"""Windows: valid and invalid declarations, and each boundary."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.model.errors import DeclarationError
from celery_partitions.model.restricted_pickle import Allowed, unsigned_loader
from celery_partitions.model.state import StateClass
from celery_partitions.pipeline import windows as w
from celery_partitions.pipeline.window_stage import to_ns, to_seconds
from tests.pipeline.naive import Engine, Gather


class Total:
    def __init__(self) -> None:
        self.total = 0


class Totals(w.Aggregation):
    def name(self) -> str:
        return "totals"

    def initial_accumulator(self) -> Total:
        return Total()

    def update(self, message: int, accumulator: Total) -> None:
        accumulator.total += message

    def combine(self, first: Total, second: Total) -> Total:
        both = Total()
        both.total = first.total + second.total
        return both

    def output(self, key: str, accumulator: Total) -> str | None:
        return f"{key}={accumulator.total}" if accumulator.total else None


class NoCombine(w.Aggregation):
    def initial_accumulator(self) -> int:
        return 0

    def update(self, message: int, accumulator: int) -> int:
        return accumulator + message

    def output(self, key: str, accumulator: int) -> int:
        return accumulator


class OldStyle:
    """Not a subclass of `Aggregation`: the methods suffice."""

    def initial_accumulator(self) -> list[int]:
        return []

    def update(self, message: int, accumulator: list[int]) -> None:
        accumulator.append(message)

    def output(self, key: str, accumulator: list[int]) -> list[int]:
        return accumulator


SECOND = w.seconds(1)


def test_window_boundaries_are_whole_nanoseconds() -> None:
    assert [partition(2) for partition in (w.nanoseconds, w.microseconds, w.milliseconds)] == [2, 2_000, 2_000_000]
    assert [partition(2) for partition in (w.seconds, w.minutes, w.hours)] == [2 * 10**9, 120 * 10**9, 7_200 * 10**9]
    assert w.seconds(0.1) == 10**8 and type(w.seconds(0.1)) is int


def test_a_window_includes_its_start_and_excludes_its_end() -> None:
    engine = Engine(w.range_windows(10 * SECOND).over(Totals))
    engine.now = 1_000.0
    assert engine.take(1, 20) == []
    assert engine.take(2, 29.999999) == []
    assert engine.take(4, 30) == ["key=3"]
    assert engine.take(8, 40) == ["key=4"]


def test_none_is_no_output_and_an_empty_window_has_none() -> None:
    engine = Engine(w.range_windows(10 * SECOND).over(Totals))
    engine.take(0, 5)
    assert engine.take(1, 95) == []
    assert engine.take(1, 205) == ["key=1"]


def test_a_delay_waits_for_late_messages() -> None:
    engine = Engine(w.range_windows(10 * SECOND).with_delay(3 * SECOND).over(Gather))
    engine.take(1, 9)
    assert engine.take(2, 12.999999) == []
    assert engine.take(3, 9) == []
    assert engine.take(4, 13) == [("key", [1, 3])]
    assert engine.take(5, 9) == []
    assert engine.take(6, 23) == [("key", [2, 4])]


@pytest.mark.parametrize(
    ("policy", "at_once", "at_last"),
    [
        ("drop", [], [2]),
        ("fire-per-message", [("key", [3])], [2]),
        ("place-in-oldest-window", [], [2, 3]),
    ],
)
def test_late_data(policy: w.LateDataPolicy, at_once: list[Any], at_last: list[int]) -> None:
    engine = Engine(w.range_windows(10 * SECOND).with_late_data_policy(policy).over(Gather))
    engine.take(1, 5)
    assert engine.take(2, 15) == [("key", [1])]
    assert engine.take(3, 5) == at_once
    assert engine.take(4, 25) == [("key", at_last)]


def test_a_message_whose_first_windows_are_closed_goes_into_the_open_ones() -> None:
    engine = Engine(w.range_windows(6 * SECOND).with_slide(3 * SECOND).over(Gather))
    engine.take(1, 4)  # in [0, 6) and [3, 9)
    assert engine.take(2, 7) == [("key", [1])]
    assert engine.take(3, 5) == []
    assert engine.take(4, 9) == [("key", [1, 2, 3])]


def test_windows_of_arrival_time_are_closed_by_the_clock() -> None:
    engine = Engine(w.range_windows(10 * SECOND).with_delay(2 * SECOND).over(Totals))
    engine.now = 1_700_000_003.25
    engine.take(1)
    assert engine.state.timer_at == 1_700_000_012.0
    assert list(engine.go_to(1_700_000_100.0)) == [(1_700_000_012.0, ["key=1"])]


def test_the_windows_of_a_quiet_key_close_even_if_its_event_times_are_years_ago() -> None:
    engine = Engine(w.range_windows(10 * SECOND).with_delay(2 * SECOND).over(Totals))
    engine.now = 1_700_000_000.0
    engine.take(1, 101)
    engine.now += 3
    engine.take(2, 102)
    assert list(engine.go_to(1_700_000_100.0)) == [(1_700_000_011.0, []), (1_700_000_013.0, ["key=3"])]


def test_only_messages_for_windows_that_a_timer_closed_are_late() -> None:
    engine = Engine(w.range_windows(10 * SECOND).over(Gather))
    engine.now = 500.0
    engine.take(1, 101)
    assert list(engine.go_to(600.0)) == [(509.0, [("key", [1])])]
    assert engine.take(2, 109) == []
    assert engine.take(3, 110) == []
    assert list(engine.go_to(700.0)) == [(610.0, [("key", [3])])]


def test_a_clock_that_goes_back_makes_no_message_late() -> None:
    engine = Engine(w.range_windows(10 * SECOND).over(Gather))
    engine.now = 1_005.0
    engine.take(1)
    assert list(engine.go_to(1_020.0)) == [(1_010.0, [("key", [1])])]
    engine.now = 900.0
    engine.take(2)
    assert list(engine.go_to(1_000.0)) == [(910.0, [("key", [2])])]


def test_count_windows_close_with_their_last_message_or_after_five_quiet_seconds() -> None:
    engine = Engine(w.count_windows(3).over(Gather))
    assert [engine.take(number) for number in range(4)] == [[], [], [("key", [0, 1, 2])], []]
    engine.now = 4.0
    assert engine.take(4, 1_000) == []
    assert list(engine.go_to(20.0)) == [(5.0, []), (9.0, [("key", [3, 4])])]
    assert engine.windows.due(engine.state) is None
    assert Engine(w.count_windows(1).over(Totals)).take(0) == []


@given(st.lists(st.tuples(st.integers(0, 8), st.none() | st.integers(0, 99)), max_size=40), st.integers(1, 5))
def test_count_windows_are_the_messages_in_order_split_by_count_and_quiet_time(
    messages: list[tuple[int, int | None]], count: int
) -> None:
    engine, out, wanted = Engine(w.count_windows(count).over(Gather)), list[list[int]](), [list[int]()]
    for number, (passes, event_time) in enumerate(messages):
        out += [one for _, gave in engine.go_to(engine.now + passes) for _, one in gave]
        engine.state = pickle.loads(pickle.dumps(engine.state, 5))
        out += [one for _, one in engine.take(number, event_time)]
        if passes >= 5 or len(wanted[-1]) == count:
            wanted.append([])
        wanted[-1].append(number)
    out += [one for _, gave in engine.go_to(engine.now + 5) for _, one in gave]
    assert out == [one for one in wanted if one]


def test_windows_without_combine_may_tumble_or_have_a_slide_that_does_not_divide() -> None:
    tumbling = Engine(w.range_windows(10 * SECOND).over(NoCombine))
    tumbling.take(1, 1)
    assert tumbling.take(2, 10) == [1]
    sliding = Engine(w.range_windows(10 * SECOND).with_slide(4 * SECOND).over(OldStyle()))
    sliding.take(1, 9)  # in [0, 10), [4, 14) and [8, 18)
    assert sliding.take(2, 14) == [[1], [1]]
    with pytest.raises(DeclarationError, match="aggregation NoCombine has no combine"):
        w.range_windows(10 * SECOND).with_slide(5 * SECOND).over(NoCombine)


class Unpicklable(Gather):
    def initial_accumulator(self) -> Any:
        return lambda: None


class Fails(Gather):
    def __init__(self) -> None:
        raise ValueError("no")


class Nameless(Gather):
    def name(self) -> str:
        return " "


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: w.range_windows(0), r"range_windows\(0\): expected an integer of at least 1"),
        (lambda: w.range_windows(1.5), "an integer of at least"),
        (lambda: w.range_windows(True), "an integer of at least"),
        (lambda: w.range_windows(float("inf")), "an integer of at least"),
        (lambda: w.count_windows(0), "an integer of at least"),
        (lambda: w.range_windows(5).with_slide(6), "longer than the range"),
        (lambda: w.range_windows(5).with_slide(0), "an integer of at least"),
        (lambda: w.range_windows(5).with_delay(-1), r"an integer of at least 0"),
        (lambda: w.range_windows(5).with_slide(2).with_slide(2), "was already called"),
        (lambda: w.range_windows(5).with_delay(0).with_delay(1), "was already called"),
        (lambda: w.range_windows(5).with_late_data_policy("keep"), "one of 'drop', 'fire-per-message'"),  # type: ignore[arg-type]
        (lambda: w.range_windows(5).over(w.Aggregation), "no initial_accumulator and no update and no output"),
        (lambda: w.count_windows(5).over(object), "aggregation object has no"),
        (lambda: w.count_windows(5).over(Unpicklable), "cannot be created or pickled"),
        (lambda: w.count_windows(5).over(Fails), "cannot be created without arguments: no"),
        (lambda: w.count_windows(5).over(Nameless), "must return a non-empty str"),
    ],
)
def test_an_invalid_declaration_is_refused_at_once(make: Callable[[], Any], says: str) -> None:
    with pytest.raises(DeclarationError, match=says):
        make()


def test_a_builder_may_be_used_without_chaining() -> None:
    builder = w.range_windows(1e9)  # type: ignore[arg-type]
    builder.with_slide(5 * 10**8)
    builder.with_delay(7)
    made = builder.over(Totals)
    assert (made.range, made.slide, made.delay, made.late_data_policy) == (10**9, 5 * 10**8, 7, "drop")
    assert (made.name, w.count_windows(2).over(Gather()).name) == ("totals", "Gather")


@pytest.mark.parametrize("made", [w.range_windows(SECOND).over(Totals), w.count_windows(9).over(Totals)])
def test_a_state_can_be_stored_and_read_with_what_the_windows_allow(made: w.Windows) -> None:
    engine = Engine(made)
    engine.take(5, 1)
    StateClass(made.state_class)
    load = unsigned_loader(Allowed(made.state_class, made.modules))
    engine.state = load(pickle.dumps(engine.state, 5))
    assert [out for _, out in engine.go_to(9.0)] == [["key=5"]]
    assert made.modules == (__name__,)


def test_a_time_that_is_not_a_number_fails_its_message() -> None:
    for time in (float("nan"), float("inf")):
        with pytest.raises(ValueError, match="is not a finite number of seconds"):
            Engine(w.range_windows(SECOND).over(Totals)).take(1, time)


@given(st.integers(0, 4_000_000_000_000_000))
def test_a_current_time_as_float_is_exact_to_the_microsecond(microseconds: int) -> None:
    assert to_ns(microseconds / 1_000_000) == microseconds * 1_000
    assert to_ns(to_seconds(microseconds * 1_000)) == microseconds * 1_000


@given(st.integers(-(10**18), 4 * 10**18))
def test_the_time_of_a_timer_is_not_before_the_end_of_its_window(ns: int) -> None:
    assert ns <= to_ns(to_seconds(ns)) < ns + 1_000


def test_an_int_is_read_exactly() -> None:
    assert to_ns(253_402_300_799) == 253_402_300_799 * 10**9
