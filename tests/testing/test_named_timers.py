"""Named timers in the harness: against a model, with crashes, and on engines that are broken on purpose."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery.schedules import crontab
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions import (
    Context,
    DeclarationError,
    RetryPolicy,
    Timer,
    computation,
    key_extractor,
    state_computation,
)
from celery_partitions.model import caller, timers
from celery_partitions.model.effects import Alarm
from celery_partitions.model.schedules import next_due
from celery_partitions.testing import harness
from celery_partitions.testing.in_memory import BEGINNING, Harness
from celery_partitions.testing.virtual import CRASH_POINTS, CrashPoint


@dataclass
class Event:
    key: str
    #: A method of `context.timers`, and its arguments.
    do: str = ""
    name: str = "one"
    seconds: float = 0.0
    fails: bool = False


class Seen:
    fired: tuple[Any, ...] = ()
    events = 0


@key_extractor
def key_of(event: Event) -> str:
    return event.key


def act(event: Event, context: Context) -> None:
    match event.do:
        case "set":
            context.timers.set(event.name, after=event.seconds, message={"n": event.seconds})
        case "at":
            context.timers.set(event.name, at=event.seconds)
        case "cancel":
            context.timers.cancel(event.name)
        case "every":
            context.timers.every(event.name, timedelta(seconds=event.seconds))
        case "cron":
            context.timers.every(event.name, crontab(minute=0, hour=9), timezone="Europe/Berlin", catch_up="one")


@state_computation("tests.timers: count", state=Seen, key=key_of, on_error=RetryPolicy(attempts=1, backoff_seconds=1, jitter=0, exhausted="dead_letter"))
def count(event: Event, seen: Seen, context: Context) -> None:
    seen.events += 1
    act(event, context)
    if event.fails:
        raise RuntimeError("after it has set")


@count.on_timer("one")
@count.on_timer("other")
def fires(timer: Timer, seen: Seen, context: Context) -> None:
    assert timer.due <= timer.fired
    seen.fired += ((timer.name, round(timer.due.timestamp() - BEGINNING, 3), timer.message),)


@count.on_timer("failing")
def fails(timer: Timer, seen: Seen, context: Context) -> None:
    failing.append(timer.due.timestamp() - BEGINNING)
    if context.attempt == 1 or len(failing) < 3:
        raise RuntimeError("not yet")
    seen.fired += (timer.name,)
    confirm.delay(Event(context.key))


@count.on_timer("again")
async def again(timer: Timer, seen: Seen, context: Context) -> None:
    """Sets itself, three times."""
    seen.fired += (timer.name,)
    if len(seen.fired) < 3:
        context.timers.set("again", after=10)


failing: list[float] = []


@computation("tests.timers: confirm", key=key_of)
def confirm(event: Event) -> None: ...


def fired(h: Harness, key: str = "k") -> list[tuple[str, float]]:
    state = h.state(count, key)
    return [] if state is None else [one[:2] for one in state.fired]


class World:
    """The harness, and what a dict of timers would do."""

    def __init__(self) -> None:
        self.h = harness(count, partitions=2, now=BEGINNING)
        self.now = 0.0
        self.timers: dict[tuple[str, str], tuple[float, float | None]] = {}
        self.fired: dict[str, list[tuple[str, float]]] = {}

    def event(self, key: str, do: str, name: str, seconds: float, crash: CrashPoint | None) -> None:
        if crash is not None:
            self.h.crash(crash)
        self.h.send(Event(key, do, name, seconds))
        match do:
            case "set":
                self.timers[key, name] = self.now + seconds, None
            case "cancel":
                self.timers.pop((key, name), None)
            case "every" if self.timers.get((key, name), (0, None))[1] != seconds:
                self.timers[key, name] = self.now + seconds, seconds
        self.fire(self.now)

    def advance(self, seconds: float) -> None:
        self.h.advance(seconds=seconds)
        self.fire(self.now + seconds)

    def jump(self, seconds: float) -> None:
        """Somebody sets the server's clock. What was passed over is missed, not lost."""
        self.h._keyspace.now += seconds
        self.now += seconds
        self.h.advance()
        self.fire(self.now)

    def fire(self, until: float) -> None:
        while due := sorted((entry[0], place) for place, entry in self.timers.items() if entry[0] <= until):
            at, (key, name) = due[0]
            self.now = max(self.now, at)
            self.fired.setdefault(key, []).append((name, at))
            every = self.timers.pop((key, name))[1]
            if every is not None:  # of the runs that were missed, one happens
                self.timers[key, name] = at + every * ((self.now - at) // every + 1), every
        self.now = until

    def check(self) -> None:
        for key in ("a", "b"):
            # Two timers that are due at once fire in the order of their names' bytes, which is not promised.
            assert sorted(fired(self.h, key), key=lambda one: (one[1], one[0])) == sorted(self.fired.get(key, []), key=lambda one: (one[1], one[0]))
        assert not self.h.dead_letters and not self.h.parked


events = st.tuples(
    st.just("event"),
    st.sampled_from(["a", "b"]),
    st.sampled_from(["set", "set", "cancel", "every", ""]),
    st.sampled_from(["one", "other"]),
    st.sampled_from([0.0, 1.0, 5.0, 7.0]).filter(bool),
    st.sampled_from([None, None, None, *CRASH_POINTS]),
)
advances = st.tuples(st.just("advance"), st.sampled_from([0.5, 1.0, 4.0, 20.0]))
jumps = st.tuples(st.just("jump"), st.sampled_from([-100.0, -6.0, -1.0, 1.0, 6.0, 25.0]))


@given(st.lists(events | advances | jumps, max_size=25))
def test_timers_are_a_dict_of_times(steps: list[Any]) -> None:
    play(steps)


def play(steps: list[Any]) -> None:
    world = World()
    with world.h:
        for what, *arguments in steps:
            getattr(world, what)(*arguments)
        world.advance(30.0 + max(0.0, -world.now))
        world.check()


SCENARIO: list[Any] = [
    ("event", "a", "set", "one", 5.0, None),
    ("advance", 4.0),
    ("event", "a", "set", "one", 5.0, None),
    ("event", "b", "set", "one", 5.0, None),
    ("event", "b", "cancel", "one", 5.0, None),
    ("event", "a", "every", "other", 7.0, None),
    ("advance", 20.0),
]


def firings_are_not_compared_with_the_record(patch: pytest.MonkeyPatch) -> None:
    def fire(handler: Any, key: str, slot: Any, outbox: Any, now: float) -> Timer:
        moment = datetime.fromtimestamp(now, UTC)
        return Timer(handler.timer, moment, moment)

    patch.setattr(caller, "fire", fire)


def a_cancel_touches_only_the_sorted_set(patch: pytest.MonkeyPatch) -> None:
    def cancel(self: Any, name: str) -> None:
        """Moves the alarm to the end of days."""
        handler = self._handler(name)
        self._step.outbox.add(Alarm(timers.MAX_DUE, timers.alarm_entry(handler.name, self._key)), is_message=False)

    patch.setattr(timers.Timers, "cancel", cancel)


def the_next_run_is_computed_from_now(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(timers, "after_firing", lambda schedule, due, now: (True, next_due(schedule, now + 300)))


@pytest.mark.parametrize("break_it", [firings_are_not_compared_with_the_record, a_cancel_touches_only_the_sorted_set, the_next_run_is_computed_from_now])
def test_a_broken_engine_is_caught(monkeypatch: pytest.MonkeyPatch, break_it: Callable[[pytest.MonkeyPatch], None]) -> None:
    def scenarios() -> None:
        play(SCENARIO)
        test_a_cancel_that_was_committed_before_the_firing_wins()

    scenarios()
    break_it(monkeypatch)
    with pytest.raises(AssertionError):
        scenarios()


def test_a_cancel_that_was_committed_before_the_firing_wins() -> None:
    """The alarm has rung, and the firing waits behind the message that cancels."""
    with harness(count) as h:
        h.send(Event("k", "set", seconds=10))
        h._keyspace.now += 11  # the worker was busy meanwhile
        h.send_many([Event("k"), Event("k", "cancel")])
        h.advance(minutes=1)
        assert fired(h) == []


def test_a_clock_that_is_put_back_while_a_firing_waits_fires_nothing_early() -> None:
    with harness(count) as h:
        h.send(Event("k", "set", seconds=10))
        dies = h._workers._die

        def put_back() -> None:
            h._keyspace.now -= 60
            dies()

        h._workers._die = put_back  # type: ignore[method-assign]
        h.crash("before the step")
        h._keyspace.now += 11
        h.send(Event("k"))  # after the firing, which is in the queue when the worker dies
        assert h._keyspace.now < BEGINNING and fired(h) == []
        h.advance(seconds=BEGINNING + 9.9 - h._keyspace.now)
        assert fired(h) == []
        h.advance(seconds=0.2)
        assert fired(h) == [("one", 10.0)]


def test_a_cron_run_that_the_clock_jumped_over_is_made_up_for_and_the_next_is_on_time() -> None:
    with harness(count, now=datetime(2027, 1, 4, 12, tzinfo=UTC)) as h:
        h.send(Event("k", "cron"))
        h._keyspace.now += 86_400 * 2.5  # the runs of two mornings are missed
        h.advance(seconds=1)
        h._keyspace.now -= 86_400  # back behind the run that was made up for
        h.advance(days=3)
        times = [datetime.fromtimestamp(one[1] + BEGINNING, UTC).strftime("%d %H:%M") for one in h.state(count, "k").fired]
        assert times == ["05 08:00", "07 08:00", "08 08:00"]


def test_a_timer_moved_with_every_message_sets_one_alarm() -> None:
    with harness(count) as h:
        for _ in range(5):
            h.send(Event("k", "set", seconds=60))
            h.advance(seconds=10)
        [partition] = [one for one in range(h.installation.settings.partitions) if h._keyspace.exists(h.installation.group.names.delayed(str(one)).encode())]
        alarms = h.installation.group.client.zrange(h.installation.group.names.delayed(str(partition)), 0, -1, withscores=True)
        assert [round(score / 1000 - BEGINNING) for _, score in alarms] == [60]
        h.advance(minutes=5)
        assert fired(h) == [("one", 100.0)]


def test_what_fails_sets_no_timer() -> None:
    with harness(count) as h:
        h.send(Event("k", "set", seconds=5, fails=True))
        h.advance(minutes=1)
        assert len(h.dead_letters) == 1
        assert fired(h) == []


def test_a_handler_is_retried_and_sends_in_its_commit() -> None:
    failing.clear()
    with harness(count) as h:
        h.send(Event("k", "set", "failing", 5))
        h.send(Event("k", "set", "one", 6))
        h.advance(seconds=5)
        assert list(h.parked) == ["k"]
        h.advance(minutes=1)
        assert [letter.task for letter in h.dead_letters] == ["tests.timers: count @ failing"]
        assert failing == [5.0, 5.0]
        assert h.sent == []
        h.send(Event("k", "set", "failing", 5))
        h.advance(minutes=1)
        assert [one.name for one in h.sent] == ["tests.timers: confirm"]
        assert [one if isinstance(one, str) else one[0] for one in h.state(count, "k").fired] == ["one", "failing"]


def test_a_repeated_timer_goes_on_after_a_run_that_was_given_up() -> None:
    failing.clear()
    with harness(count) as h:
        h.send(Event("k", "every", "failing", 10))
        h.advance(seconds=12)
        assert len(h.dead_letters) == 1
        h.advance(seconds=30)
        assert h.state(count, "k").fired[:1] == ("failing",)


def test_a_coroutine_sets_its_own_timer() -> None:
    with harness(count) as h:
        h.send(Event("k", "set", "again", 1))
        h.advance(minutes=5)
        assert h.state(count, "k").fired == ("again",) * 3


def test_mornings_in_a_time_zone() -> None:
    with harness(count, now=datetime(2027, 3, 26, 12, tzinfo=UTC)) as h:
        h.send(Event("k", "cron"))
        h.advance(days=3)
        hours = [datetime.fromtimestamp(one[1] + BEGINNING, UTC).strftime("%d %H:%M") for one in h.state(count, "k").fired]
        assert hours == ["27 08:00", "28 07:00", "29 07:00"]


@pytest.mark.parametrize("key", ['q"\n', "é☃", "@", "x" * 200])
def test_keys_of_any_text(key: str) -> None:
    with harness(count) as h:
        h.send(Event(key, "set", seconds=1))
        h.advance(seconds=2)
        assert fired(h, key) == [("one", 1.0)]


def test_the_alarms_of_other_keys_stay() -> None:
    with harness(count, twice=True) as h:
        for number in range(20):
            h.send(Event(f"k{number}", "set", seconds=number + 1))
        h.advance(seconds=10.5)
        assert [len(fired(h, f"k{number}")) for number in range(20)] == [1] * 10 + [0] * 10


@pytest.mark.parametrize(
    ("call", "error", "why"),
    [
        (lambda t: t.set("one"), TypeError, "either after= or at="),
        (lambda t: t.set("one", after=1, at=2), TypeError, "either after= or at="),
        (lambda t: t.set("none", after=1), LookupError, "has no handler for the timer 'none'"),
        (lambda t: t.cancel("none"), LookupError, "Its timers: 'again', 'failing', 'one', 'other'"),
        (lambda t: t.set("one", at=datetime(2027, 1, 1)), ValueError, "time zone"),
        (lambda t: t.set("one", after=float("nan")), ValueError, "a timer's time must be"),
        (lambda t: t.set("one", after=1e15), ValueError, "before the year 10000"),
        (lambda t: t.set("one", after=1, message="x" * 20_000), ValueError, "10,000 are stored"),
        (lambda t: t.every("one", "daily"), ValueError, "crontab"),
    ],
)
def test_wrong_calls_are_refused(call: Callable[[Any], None], error: type[Exception], why: str) -> None:
    slot: Any = type("Slot", (), {"timers": None})()
    with pytest.raises(error, match=why):
        call(timers.OpenTimers(count.computation, {"k": slot}, None, BEGINNING)["k"])  # type: ignore[arg-type]
    assert slot.timers is None


def test_wrong_declarations_are_refused() -> None:
    with pytest.raises(DeclarationError, match="needs a name"):
        count.on_timer("")(fires)
    with pytest.raises(DeclarationError, match=r"\(timer, state\)"):
        count.on_timer("x")(lambda timer: None)
    with pytest.raises(RuntimeError, match="no timers here"):
        Context("k", "m", 0, None, 1).timers  # noqa: B018
