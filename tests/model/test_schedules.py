"""When a repeated timer is due: crontabs against a search through every minute, time zones with daylight saving, catching up."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from zoneinfo import ZoneInfo

import pytest
from celery.schedules import crontab, schedule
from hypothesis import given
from hypothesis import strategies as st

from celery_partitions.model.schedules import (
    LATE_MS,
    MAX_CATCH_UP,
    CatchUp,
    Schedule,
    _runs,
    after_firing,
    next_due,
    schedule_of,
)

BERLIN = "Europe/Berlin"
MINUTE, HOUR, DAY = 60_000, 3_600_000, 86_400_000


def at(text: str, zone: str = "UTC") -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(zone)).timestamp() * 1000)


def runs(schedule: Schedule, after: int, count: int, zone: str = "UTC") -> list[str]:
    return [datetime.fromtimestamp(one / 1000, ZoneInfo(zone)).strftime("%m-%d %H:%M%z") for one in islice(_runs(schedule, after), count)]


numbers = {
    "minute": st.sampled_from(["*", "*/7", "0", "30,59", "5-9"]),
    "hour": st.sampled_from(["*", "*/5", "0", "2,3", "23"]),
    "day_of_week": st.sampled_from(["*", "mon", "sat,sun", "1-5", "0"]),
    "day_of_month": st.sampled_from(["*", "1", "29-31", "*/2"]),
    "month_of_year": st.sampled_from(["*", "2", "3,10", "*/3"]),
}


@given(st.fixed_dictionaries(numbers), st.integers(at("2024-01-01T00:00"), at("2028-12-31T00:00")))
def test_a_crontab_matches_a_search_of_every_day(fields: dict[str, str], after: int) -> None:
    """In UTC. The days are Celery's own sets."""
    cron = crontab(**fields)
    found = next_due(schedule_of(cron, "UTC", "one"), after)
    assert found is not None and found > after
    moment = datetime.fromtimestamp(found / 1000, UTC)
    assert moment.minute in cron.minute and moment.hour in cron.hour and moment.second == 0

    def runs_on(day: datetime) -> bool:
        return day.month in cron.month_of_year and day.day in cron.day_of_month and day.isoweekday() % 7 in cron.day_of_week

    assert runs_on(moment)
    start = datetime.fromtimestamp(after / 1000, UTC)
    day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    while day.date() < moment.date():  # no day between has a run that is still to come
        last = day.replace(hour=max(cron.hour), minute=max(cron.minute))
        assert not runs_on(day) or last <= start
        day += timedelta(days=1)
    earlier = [day.replace(hour=hour, minute=minute) for hour in cron.hour for minute in cron.minute]
    assert not [one for one in earlier if start < one < moment]


def test_a_local_time_that_does_not_exist_comes_when_the_clocks_were_put_forward() -> None:
    half_past_two = schedule_of(crontab(hour=2, minute=30), BERLIN, "one")
    assert runs(half_past_two, at("2027-03-27T00:00", BERLIN), 3, BERLIN) == ["03-27 02:30+0100", "03-28 03:00+0200", "03-29 02:30+0200"]


def test_all_times_that_do_not_exist_are_one_run() -> None:
    each = schedule_of(crontab(hour=2, minute="*/20"), BERLIN, "one")
    assert runs(each, at("2027-03-28T00:00", BERLIN), 2, BERLIN) == ["03-28 03:00+0200", "03-29 02:00+0200"]


def test_a_local_time_that_exists_twice_comes_once() -> None:
    half_past_two = schedule_of(crontab(hour=2, minute=30), BERLIN, "one")
    assert runs(half_past_two, at("2027-10-30T12:00", BERLIN), 2, BERLIN) == ["10-31 02:30+0200", "11-01 02:30+0100"]


def test_zones_with_other_rules() -> None:
    """Lord Howe moves its clocks by half an hour; in Santiago a day begins at one."""
    assert runs(schedule_of(crontab(hour=2, minute=15), "Australia/Lord_Howe", "one"), at("2027-10-02T12:00"), 1, "Australia/Lord_Howe") == ["10-03 02:30+1100"]
    assert runs(schedule_of(crontab(hour=0, minute=0), "America/Santiago", "one"), at("2027-09-04T12:00"), 1, "America/Santiago") == ["09-05 01:00-0300"]


def test_rare_days() -> None:
    leap = schedule_of(crontab(minute=0, hour=0, day_of_month=29, month_of_year=2, day_of_week="mon"), "UTC", "one")
    found = next_due(leap, at("2027-01-01T00:00"))
    assert found == at("2044-02-29T00:00")


@pytest.mark.parametrize(
    ("given_schedule", "zone", "catch_up", "why"),
    [
        (crontab(), "Middle/Earth", "one", "timezone='Middle/Earth' is not known"),
        (crontab(), "UTC", "two", "catch_up='two' is not known"),
        ("daily", "UTC", "one", "must be a celery.schedules.crontab"),
        (timedelta(0), "UTC", "one", "above zero"),
        (True, "UTC", "one", "above zero"),
    ],
)
def test_what_is_no_schedule_is_refused(given_schedule: object, zone: str, catch_up: CatchUp, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        schedule_of(given_schedule, zone, catch_up)


def test_intervals() -> None:
    for one in (timedelta(minutes=1), 60, schedule(60)):
        assert next_due(schedule_of(one, "UTC", "one"), 123) == 60_123


HOURLY = {catch_up: schedule_of(crontab(minute=0), "UTC", catch_up) for catch_up in ("one", "none", "all")}
EVERY = {catch_up: schedule_of(timedelta(hours=1), "UTC", catch_up) for catch_up in ("one", "none", "all")}


@pytest.mark.parametrize("schedules", [HOURLY, EVERY])
def test_runs_that_were_missed(schedules: dict[str, Schedule]) -> None:
    """The run of 10:00 gets its turn in time, 5 minutes late, and 5 hours late."""
    due = at("2027-01-01T10:00")
    for catch_up in schedules:
        assert after_firing(schedules[catch_up], due, due + 30) == (True, due + HOUR)
    assert after_firing(schedules["one"], due, due + 5 * MINUTE) == (True, due + HOUR)
    assert after_firing(schedules["none"], due, due + LATE_MS + 1) == (False, due + HOUR)
    late = due + 5 * HOUR + MINUTE
    assert after_firing(schedules["one"], due, late) == (True, due + 6 * HOUR)
    assert after_firing(schedules["none"], due, late) == (False, due + 6 * HOUR)
    assert after_firing(schedules["all"], due, late) == (True, due + HOUR)
    very_late = due + (MAX_CATCH_UP + 5) * HOUR + MINUTE
    assert after_firing(schedules["all"], due, very_late) == (True, due + (MAX_CATCH_UP + 6) * HOUR)
