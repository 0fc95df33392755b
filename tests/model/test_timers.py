"""Timers of windows: one per key at a time, and none is lost, whatever happens in between. Also the times in headers."""

from __future__ import annotations

from typing import Any

import pytest

from celery_partitions.model.effects import Delivery, Timer
from celery_partitions.model.message_writer import TIMER_BODY
from celery_partitions.model.outcome import Outcome
from celery_partitions.model.timers import alarm_entry, key_of_alarm
from celery_partitions.pipeline.builder import Built
from celery_partitions.pipeline.sinks import RedisList
from celery_partitions.pipeline.windows import Aggregation, count_windows, range_windows, seconds
from tests.model.build import raw_envelope
from tests.model.piped import SIGNING, begin, body_of, built, headers_of, payloads, read, run, send, stage


class Gather(Aggregation):
    def name(self) -> str:
        return "gather"

    def initial_accumulator(self) -> list[Any]:
        return []

    def update(self, message: Any, accumulator: list[Any]) -> None:
        accumulator.append(message)

    def combine(self, one: list[Any], other: list[Any]) -> list[Any]:
        return one + other

    def output(self, key: str, accumulator: list[Any]) -> Any:
        if "broken" in accumulator:
            raise ValueError("on purpose")
        return accumulator


def app_of(windows: Any, **options: Any) -> Built:
    return built(begin(**options).key_by(lambda value: "k").to(windows).to_sink(RedisList("out")))


class Key:
    """The windows of one key over several commits: the state, and the timers that were set."""

    def __init__(self, windows: Any, **options: Any) -> None:
        self.app = app_of(windows, **options)
        self.stored: dict[str, dict[str, bytes]] = {"gather": {}}
        self.timers: list[Timer] = []

    def do(self, raws: list[bytes], now: float) -> Outcome:
        outcome = run(self.app, raws, stored=self.stored, now=now)
        self.stored["gather"].update(outcome.states.get("gather", {}))
        self.timers += [one for one in outcome.emitted if isinstance(one, Timer)]
        return outcome

    def take(self, value: Any, now: float, message_id: str = "m", **headers: Any) -> list[Any]:
        return payloads(self.do([send(value, message_id, **headers)], now))

    def fire(self, timer: Timer, now: float) -> list[Any]:
        self.timers.remove(timer)
        return payloads(self.do([timer.raw], now))


def test_a_timer_is_the_stages_message_to_itself_with_the_key_and_when_it_is_due() -> None:
    key = Key(range_windows(seconds(10)).over(Gather))
    assert key.take(1, now=1_003.0) == []
    (timer,) = key.timers
    headers = headers_of(timer.raw)
    assert timer.due == 1_010.0
    assert (headers["task"], headers["id"], headers["partition_key"], headers["timer"]) == ("gather", "m:0", "k", 1_010.0)
    assert body_of(timer.raw)[0] == [{"__timer__": True}]
    assert key.take(2, now=1_004.0) == [] and key.timers == [timer]
    assert key.fire(timer, now=1_010.0) == [[1, 2]] and not key.timers


def test_a_timer_that_fires_slightly_early_sets_itself_again() -> None:
    key = Key(range_windows(seconds(10)).over(Gather))
    key.take(1, now=1_003.0)
    assert key.fire(key.timers[0], now=1_009.9995) == []
    (again,) = key.timers
    assert again.due == 1_010.0 and key.fire(again, now=1_010.0) == [[1]]


def test_the_timers_of_a_chain_differ_and_do_not_grow() -> None:
    key, ids, sizes = Key(range_windows(seconds(60)).with_slide(seconds(1)).over(Gather)), [], []
    key.take("a message", now=1_000.0)
    for _ in range(50):
        (timer,) = key.timers
        ids.append(headers_of(timer.raw)["id"])
        sizes.append(len(timer.raw))
        outcome = key.do([timer.raw], timer.due)
        key.timers.remove(timer)
        ids_sent = [one.message_id for one in outcome.emitted if isinstance(one, Delivery)]
        assert all(one.startswith(ids[-1] + ":") for one in ids_sent)
    assert ids[:3] == ["m:0", "m:0~1", "m:0~2"] and len(set(ids)) == 50
    assert sizes[-1] < sizes[0] + 40


def test_a_timer_that_an_earlier_one_replaced_does_not_start_a_second_chain() -> None:
    """Otherwise each such timer would set the next one forever, and their number would grow."""
    key = Key(count_windows(100).over(Gather))
    for turn in range(6):
        key.take(turn, now=1_000.0 + turn)
    at = 1_006.0
    for turn in range(50):
        at += 2.0
        key.take(turn, now=at)
        for timer in [timer for timer in key.timers if timer.due <= at]:
            key.fire(timer, now=at)
    assert len(key.timers) == 1


def test_timers_that_earlier_ones_replaced_are_dropped() -> None:
    key = Key(range_windows(seconds(10)).over(Gather), event_time=lambda value: value)
    for n, moment in enumerate([1_095, 1_096, 1_097, 1_098]):
        key.take(moment, now=1_000.0 - n * 0.5, message_id=f"m{n}")  # each a little earlier than the previous one
    set_at_first = len(key.timers)
    assert set_at_first > 1
    for round_ in range(3):
        at = max(timer.due for timer in key.timers)
        key.take(1_100 + 20 * round_, now=at - 0.001, message_id=f"r{round_}")
        for timer in sorted((one for one in key.timers if one.due <= at), key=lambda one: one.due):
            key.fire(timer, now=at)
    assert len(key.timers) == 1


def test_after_a_timer_became_a_dead_letter_the_next_message_sets_another() -> None:
    key = Key(range_windows(seconds(10)).over(Gather))
    key.take("broken", now=1_003.0)
    (timer,) = key.timers
    key.timers.clear()
    outcome = key.do([timer.raw], now=1_010.0)
    assert [broken.reason for broken, _ in outcome.dead] == ["computation-failed"]
    # Closing the window still raises. An operator repairs the state.
    state = SIGNING.load(key.app.stages["gather"], "k", key.stored["gather"]["k"])
    state.accumulators = {start: ["repaired"] for start in state.accumulators}
    key.stored["gather"]["k"] = SIGNING.dump(key.app.stages["gather"], "k", state)
    assert key.take("next", now=1_021.0, message_id="n") == [["repaired"]]
    (timer,) = key.timers
    assert timer.due == 1_030.0 and key.fire(timer, now=1_030.0) == [["next"]]


def test_a_timer_for_a_stage_without_timers_is_a_dead_letter() -> None:
    app = built(begin().key_by(lambda value: "k").to(stage(lambda value: value, "plain")).to_sink(RedisList("out")))
    raw = raw_envelope(TIMER_BODY, headers={"task": "plain", "partition_key": "k"})
    (item,) = read(app, [raw])
    assert type(item).__name__ == "DeadLetterItem" and "the message is a timer, but 'plain' sets no timers" in item.error


def test_a_timer_for_a_key_without_a_state_does_nothing() -> None:
    key = Key(range_windows(seconds(10)).over(Gather))
    key.take(1, now=1_003.0)
    key.stored["gather"].clear()
    assert key.fire(key.timers[0], now=1_010.0) == [] and not key.timers


@pytest.mark.parametrize("value", ["text", True, [1], {"a": 1}, None, 1e300, -1e300, 10**40, "2020-01-01"])
def test_an_invalid_time_in_the_header_of_a_stages_message_is_ignored(value: Any) -> None:
    key = Key(range_windows(seconds(10)).over(Gather), event_time=lambda value: 1_005.0)
    raw = send(1, task="gather", partition_key="k", event_time=value)
    assert not key.do([raw], now=1_003.0).dead
    assert [timer.due for timer in key.timers] == [1_010.0]


@pytest.mark.parametrize("value", ["text", True, None, 1e300, float("nan"), float("inf"), 10**40])
def test_an_invalid_result_of_event_time_fails_the_message(value: Any) -> None:
    app = app_of(range_windows(seconds(10)).over(Gather), event_time=lambda _: value)
    ((broken, _),) = run(app, [send(1)]).dead
    assert "event_time must return" in broken.error and broken.reason == "computation-failed"


@pytest.mark.parametrize("key", ["a", 'q"\n', "\udcff", "é☃"])
def test_an_alarm_names_its_key(key: str) -> None:
    assert key_of_alarm(alarm_entry("c @ t", key)) == key
    assert key_of_alarm(b"0000000000000001.00000000:{}") is None
