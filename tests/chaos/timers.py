"""Timers that each message sets, moves, cancels or repeats. The state of a key is also the story of its timers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any

from celery_partitions import Context, Timer, state_computation
from tests.chaos.acts import GIVE_UP, Act, History, act_key, act_out

ALARM, TICK = "alarm", "tick"
#: When an alarm is due after its message: for some messages before the key's next one, for some after.
ALARM_SECONDS = (0.05, 0.4, 1.5)
TICK_MS = 250
#: If more ticks than this were missed, only one of them happens.
MAX_CATCH_UP = 100
#: After this many ticks the handler cancels the timer.
TICKS = 6


class Plan(History):
    #: What happened, in order: ("set", number, due), ("cancel", number), ("alarm", number, due, fired), ("every", due),
    #: ("tick", due, fired), ("stop",). Times in ms.
    story: list[tuple[Any, ...]] = []  # noqa: RUF012 - each key gets its own copy


def milliseconds(moment: datetime | None) -> int:
    assert moment is not None
    return int(moment.timestamp() * 1000 + 0.01)


@state_computation(name="plan", state=Plan, key=act_key, on_error=GIVE_UP)
def plan(act: Act, state: Plan, context: Context) -> None:
    timers = context.timers
    match act.number % 4:
        case 0:
            state.story.append(("cancel", act.number))
            timers.cancel(ALARM)
        case 1:
            timers.every(TICK, timedelta(milliseconds=TICK_MS), catch_up="all")
            state.story.append(("every", milliseconds(timers.due(TICK))))
        case _:
            timers.set(ALARM, after=ALARM_SECONDS[act.number % len(ALARM_SECONDS)], message=act.number)
            state.story.append(("set", act.number, milliseconds(timers.due(ALARM))))
    act_out(act, state, context)


@plan.on_timer(ALARM)
def alarm(timer: Timer, state: Plan, context: Context) -> None:
    """Every third one fails at first."""
    state.story.append((ALARM, timer.message, milliseconds(timer.due), milliseconds(timer.fired)))
    if context.attempt == 1 and timer.message % 3 == 0:
        raise ValueError(f"the alarm of {timer.message} raises")


@plan.on_timer(TICK)
def tick(timer: Timer, state: Plan, context: Context) -> None:
    state.story.append((TICK, milliseconds(timer.due), milliseconds(timer.fired)))
    if sum(1 for what, *_ in state.story if what == TICK) % TICKS == 0:
        context.timers.cancel(TICK)
        state.story.append(("stop",))


def firings(story: Sequence[tuple[Any, ...]]) -> int:
    """How many firings are in a story."""
    return sum(1 for what, *_ in story if what in (ALARM, TICK))


def story_errors(story: Sequence[tuple[Any, ...]]) -> Iterator[str]:
    """Compare a key's story with a model: at most one alarm and one repeated timer."""
    alarm: tuple[int, int] | None = None
    tick: int | None = None
    for entry in story:
        match entry:
            case ("set", number, due):
                alarm = number, due
            case ("cancel", _):
                alarm = None
            case ("alarm", number, due, fired):
                if alarm != (number, due):
                    yield f"the alarm of {number} fired, and {alarm} was set"
                if fired < due:
                    yield f"the alarm of {number} fired {due - fired} ms early"
                alarm = None
            case ("every", due):
                if tick not in (None, due):
                    yield f"the next tick moved from {tick} to {due}, although it was repeated already"
                tick = due
            case ("tick", due, fired):
                if due != tick or fired < due:
                    yield f"the tick of {due} fired at {fired}, and {tick} was due"
                missed = (fired - due) // TICK_MS
                tick = due + (TICK_MS if missed <= MAX_CATCH_UP else (missed + 1) * TICK_MS)
            case ("stop",):
                tick = None
    if alarm is not None or tick is not None:
        yield f"the alarm {alarm} and the tick {tick} never fired"
