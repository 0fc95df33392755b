"""Celery beat without a beat process: a computation whose keys are the entries of `app.conf.beat_schedule`.

Each entry's timer sends its task in the commit that sets the next run. So no run happens twice or is lost when a worker dies, and whichever
worker owns the entry's partition runs it. Declared only by `declare_beat`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import cache
from typing import Any, cast

from celery import Celery
from celery.beat import BeatLazyFunc
from celery.schedules import crontab, schedule, solar

from celery_partitions.admin.timers import timers_in
from celery_partitions.model.computation import Context
from celery_partitions.model.declaration import key_extractor
from celery_partitions.model.errors import SetupError
from celery_partitions.model.outbox import current_outbox
from celery_partitions.model.schedules import CatchUp, schedule_of
from celery_partitions.model.timers import Timer
from celery_partitions.producer.bulk import send_many
from celery_partitions.producer.handle import StateComputation, state_computation
from celery_partitions.runtime.installation import Installation

NAME = "partitions beat"
#: The timer of an entry.
RUN = "run"
#: Celery's own schedulers, which run what `beat_schedule` says.
_SCHEDULERS = ("celery.beat:PersistentScheduler", "celery.beat.PersistentScheduler", "celery.beat:Scheduler", "celery.beat.Scheduler")


@dataclass
class Entry:
    """An entry of the schedule, as a worker finds it when it starts."""

    name: str
    task: str = ""
    #: As `schedule_of` makes it. None: `solar`, or the entry is gone.
    schedule: list[Any] | None = None
    is_gone: bool = False


@dataclass
class Runs:
    """What is known of an entry."""

    task: str = ""
    #: Seconds since the epoch.
    last_run: float | None = None
    count: int = 0
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class Schedule:
    """The entries of an app that can be run, and why the others can't."""

    entries: dict[str, Entry] = field(default_factory=dict)
    refused: list[str] = field(default_factory=list)


@key_extractor
def name_of(entry: Entry) -> str:
    return entry.name


@cache
def declare_beat() -> StateComputation[Any, Any, Runs]:
    """Declare the computation, once in a process."""

    @state_computation(NAME, state=Runs, key=name_of, on_error="dead_letter")
    def plan(entry: Entry, runs: Runs, context: Context) -> None:
        runs.task, runs.is_gone = entry.task, entry.is_gone
        if entry.is_gone:
            context.timers.cancel(RUN)
        elif entry.schedule is not None:
            context.timers.repeat(RUN, entry.schedule)
        else:
            _next_of_the_sun(entry.name, context, context.timers.now)

    @plan.on_timer(RUN)
    def run(timer: Timer, runs: Runs, context: Context) -> None:
        app = _app()
        entry = app.conf.beat_schedule.get(context.key)
        if entry is None:
            return  # another version of the code schedules it
        args, kwargs = ([_evaluated(value) for value in entry.get("args") or ()], {name: _evaluated(value) for name, value in (entry.get("kwargs") or {}).items()})
        options = entry.get("options") or {}
        task = app.tasks.get(entry["task"])
        if task is None:
            app.send_task(entry["task"], args, kwargs, **options)
        else:
            task.apply_async(args, kwargs, **options)
        runs.last_run = timer.fired.timestamp()
        runs.count += 1
        if isinstance(entry["schedule"], solar):
            _next_of_the_sun(context.key, context, timer.fired)

    return cast("StateComputation[Any, Any, Runs]", plan)


def _app() -> Celery:
    outbox = current_outbox()
    assert outbox is not None
    return cast(Celery, outbox.app)


def _evaluated(value: Any) -> Any:
    return value() if isinstance(value, BeatLazyFunc) else value


def _next_of_the_sun(name: str, context: Context, now: datetime) -> None:
    """Set the timer of a `solar` entry to the next event after `now`."""
    entry = _app().conf.beat_schedule.get(name)
    if entry is not None:
        given: Any = entry["schedule"]
        # Its own clock would be this machine's. The second is about how exactly the package knows an event, so that none comes twice.
        begin = now + timedelta(seconds=1)
        sun = solar(given.event, given.lat, given.lon, app=given.app, nowfun=lambda: begin)
        context.timers.set(RUN, at=begin + sun.remaining_estimate(begin))


def schedule_in(app: Celery, catch_up: CatchUp) -> Schedule:
    """What `app.conf.beat_schedule` says. Loads the app's configuration and its tasks."""
    app.finalize(auto=True)
    found, conf = Schedule(), app.conf
    if str(conf.beat_scheduler) not in _SCHEDULERS:
        found.refused.append(f"beat_scheduler is {conf.beat_scheduler}: only the entries of beat_schedule are run")
    zone = getattr(app.timezone, "key", None) or str(app.timezone)
    for name, entry in (conf.beat_schedule or {}).items():
        if not isinstance(entry, Mapping) or not isinstance(entry.get("task"), str):
            found.refused.append(f"entry {name!r:.80} names no task")
            continue
        given = entry.get("schedule")
        why = _why_not(given)
        try:
            stored = None if why or type(given) is solar else schedule_of(given, zone, catch_up)
        except ValueError as error:
            why = str(error)
        if why:
            found.refused.append(f"entry {name!r:.80}: {why}")
        else:
            found.entries[name] = Entry(name, entry["task"], stored)
    return found


def _why_not(given: Any) -> str:
    if type(given) not in (int, float, timedelta, crontab, schedule, solar):
        return f"its schedule is a {type(given).__module__}.{type(given).__qualname__}; known are crontab, schedule, solar, a timedelta and seconds"
    if getattr(given, "relative", False):
        return "relative=True is not known; use a crontab, which is aligned to the clock"
    return ""


def check_beat(installation: Installation) -> Schedule:
    """The app's schedule. Raises `SetupError` that names every entry that can't be run: a part of a schedule would be worse than none."""
    found = schedule_in(installation.app, installation.settings.beat_catch_up)
    if found.refused:
        raise SetupError(
            f"PARTITIONS_BEAT cannot run this schedule: {'; '.join(found.refused)}. Change these entries, or run `celery beat` instead of PARTITIONS_BEAT"
        )
    return found


def plan_runs(installation: Installation) -> int:
    """Send the schedule's current entries to the partitions that run them. Each worker calls it when it starts; repeating it changes nothing. Returns the
    number of entries."""
    found = check_beat(installation)
    gone = [Entry(name, is_gone=True) for name in installation.group.states.keys(NAME) if name not in found.entries]
    send_many(installation, declare_beat().computation, [*found.entries.values(), *gone], progress=False)
    return len(found.entries)


@dataclass(frozen=True, slots=True)
class PlannedEntry:
    """An entry, and what is known of its runs. Times in seconds since the epoch."""

    name: str
    task: str
    schedule: str
    last_run: float | None
    next_run: float | None
    runs: int


def planned(installation: Installation) -> Iterator[PlannedEntry]:
    """The entries that workers run. Raises `StateError` for a record that can't be read."""
    group = installation.group
    for name in sorted(group.states.keys(NAME)):
        computation = declare_beat().computation
        seen = group.state_editor.see(computation, name)
        runs = seen.state
        if runs is None or runs.is_gone:
            continue
        timer = next((one for one in timers_in(group.states, computation, seen.stored) if one.name == RUN), None)
        yield PlannedEntry(
            name, runs.task, (timer and timer.repeats) or "solar", runs.last_run, None if timer is None else timer.due, runs.count
        )
