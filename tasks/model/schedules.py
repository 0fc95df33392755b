"""Computes when a repeated timer is due next: an interval, or Celery's `crontab` in a time zone. Pure.

A schedule is stored in a key's record as a list: `["i", milliseconds, catch_up]` or `["c", minutes, hours, days of week, days of month, months,
time zone, catch_up]`. The sets of a crontab are bit masks. Times are milliseconds since the epoch.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import lru_cache
from typing import Any, Literal, get_args
from zoneinfo import ZoneInfo

#: What happens with runs that were missed, for example in an outage.
CatchUp = Literal["one", "none", "all"]
CATCH_UPS: tuple[CatchUp, ...] = get_args(CatchUp)
#: With "all": if more runs than this were missed, only one of them happens.
MAX_CATCH_UP = 100
#: With "none": a run that is later than this was missed.
LATE_MS = 60_000
#: A crontab that has no run in this many days never has one. The rarest is 29 February of a certain weekday.
_MAX_DAYS = 366 * 41
_FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")

Schedule = list[Any]


def schedule_of(given: Any, timezone: str | ZoneInfo, catch_up: CatchUp) -> Schedule:
    """The stored form of a `crontab`, a `timedelta`, a number of seconds, or a Celery `schedule`. Raises `ValueError` that says what is wrong."""
    if catch_up not in CATCH_UPS:
        raise ValueError(f"catch_up={catch_up!r:.40} is not known; expected one of {', '.join(CATCH_UPS)}")
    if all(isinstance(getattr(given, name, None), set | frozenset) for name in _FIELDS):
        zone = timezone.key if isinstance(timezone, ZoneInfo) else timezone
        try:
            _zone(zone)
        except (KeyError, ValueError, TypeError, OSError):
            raise ValueError(f"timezone={timezone!r:.80} is not known; use a name such as 'Europe/Berlin' or a zoneinfo.ZoneInfo") from None
        return ["c", *(sum(1 << number for number in getattr(given, name)) for name in _FIELDS), zone, CATCH_UPS.index(catch_up)]
    given = getattr(given, "run_every", given)
    seconds = given.total_seconds() if isinstance(given, timedelta) else given
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0.001 <= seconds < 1e10:
        raise ValueError(f"a schedule must be a celery.schedules.crontab, a timedelta or a number of seconds above zero, not {given!r:.80}")
    return ["i", round(seconds * 1000), CATCH_UPS.index(catch_up)]


def next_due(schedule: Schedule, after: int) -> int | None:
    """The first run after a time. None if there is none."""
    if schedule[0] == "i":
        return after + int(schedule[1])
    return next(_runs(schedule, after), None)


def after_firing(schedule: Schedule, due: int, now: int) -> tuple[bool, int | None]:
    """A run was due at `due`, and it is `now`. Returns whether it happens, and when the next one is due: computed from `due`, so that a
    late run delays no other."""
    catch_up = CATCH_UPS[schedule[-1]]
    following = next_due(schedule, due)
    happens = catch_up != "none" or now - due <= LATE_MS
    if following is None or following > now or (catch_up == "all" and _missed(schedule, due, now) <= MAX_CATCH_UP):
        return happens, following
    if schedule[0] == "i":
        return happens, due + (now - due) // schedule[1] * schedule[1] + schedule[1]
    return happens, next_due(schedule, now)


def describe_schedule(schedule: Schedule) -> str:
    """A schedule for people."""
    if schedule[0] == "i":
        return f"every {timedelta(milliseconds=schedule[1])}"
    _, minutes, hours, weekdays, days, months, zone, _ = schedule
    parts = (("minute", minutes, 60, 0), ("hour", hours, 24, 0), ("day of week", weekdays, 7, 0), ("day of month", days, 31, 1), ("month", months, 12, 1))
    given = [f"{name} {','.join(map(str, _numbers(mask)))}" for name, mask, count, _ in parts if mask.bit_count() < count]
    return f"{'; '.join(given) or 'every minute'} ({zone})"


def _missed(schedule: Schedule, due: int, now: int) -> int:
    """How many runs after `due` are overdue; at most one more than `MAX_CATCH_UP`."""
    count, following = 0, next_due(schedule, due)
    while following is not None and following <= now and count <= MAX_CATCH_UP:
        count += 1
        following = next_due(schedule, following)
    return count


def _runs(schedule: Schedule, after: int) -> Iterator[int]:
    """The runs of a crontab after a time, in order."""
    _, minutes, hours, weekdays, days, months, zone_name, _ = schedule
    zone = _zone(zone_name)
    day = datetime.fromtimestamp(after / 1000, zone).date()
    times = [(hour, minute) for hour in _numbers(hours) for minute in _numbers(minutes)]
    for _ in range(_MAX_DAYS):
        if months >> day.month & 1 and days >> day.day & 1 and weekdays >> (day.isoweekday() % 7) & 1:
            for hour, minute in times:
                at = _instant(day, hour, minute, zone)
                if at > after:
                    after = at
                    yield at
        if day == date.max:
            return
        day += timedelta(days=1)


def _instant(day: date, hour: int, minute: int, zone: tzinfo) -> int:
    """The instant of a local time. One that exists twice: the first. One that does not exist: the next instant that does."""
    local = datetime(day.year, day.month, day.day, hour, minute, tzinfo=zone)
    at = int(local.timestamp())
    if datetime.fromtimestamp(at, zone).replace(tzinfo=None) == local.replace(tzinfo=None):
        return at * 1000
    low, high = sorted((at, int(local.replace(fold=1).timestamp())))
    before = datetime.fromtimestamp(low - 1, zone).utcoffset()
    while low < high:  # when the clocks are put forward
        middle = (low + high) // 2
        if datetime.fromtimestamp(middle, zone).utcoffset() == before:
            low = middle + 1
        else:
            high = middle
    return low * 1000


def _numbers(mask: int) -> list[int]:
    return [number for number in range(mask.bit_length()) if mask >> number & 1]


@lru_cache(maxsize=1000)
def _zone(name: str) -> tzinfo:
    return UTC if name == "UTC" else ZoneInfo(name)
