"""`beat_schedule` without celery beat: each run once, through crashes; missed runs; changed entries; what is refused; and in a real worker."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from celery import Celery, signals
from celery._state import _set_task_join_will_block
from celery.beat import BeatLazyFunc
from celery.contrib.testing.worker import start_worker
from celery.schedules import crontab, schedule, solar

from celery_partitions import SetupError, install
from celery_partitions.model.schedules import CatchUp
from celery_partitions.producer.beat import Entry, check_beat, declare_beat, planned, schedule_in
from celery_partitions.runtime.registry import declared, installation_of, remove_installation
from celery_partitions.testing import harness
from celery_partitions.testing.in_memory import Harness
from celery_partitions.testing.virtual import CRASH_POINTS
from celery_partitions.worker.bootstep import WorkerRefused
from celery_partitions_config.settings import Settings
from tests.support.apps import close_app
from tests.support.wait import wait_until

NOW = datetime(2027, 3, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def _not_in_other_tests() -> Iterator[None]:
    """Other tests look at every declared computation."""
    plan = declare_beat().computation
    names = [plan.name, *(handler.name for handler in plan.handlers.values())]
    for one in (plan, *plan.handlers.values()):
        declared[one.name] = one
    yield
    for name in names:
        declared.pop(name, None)


@contextmanager
def beat(entries: dict[str, Any], catch_up: CatchUp = "one") -> Iterator[Harness]:
    with harness(declare_beat(), now=NOW, partitions=4) as h:
        begin(h, entries, catch_up)
        yield h


def begin(h: Harness, entries: dict[str, Any], catch_up: CatchUp = "one") -> None:
    """As a worker that starts."""
    h._app.conf.beat_schedule = entries
    found = schedule_in(h._app, catch_up)
    assert not found.refused
    gone = [Entry(name, is_gone=True) for name in h.states(declare_beat()) if name not in found.entries]
    h.send_many([*found.entries.values(), *gone])


def runs(h: Harness) -> list[tuple[str, tuple[Any, ...]]]:
    return [(one.name, one.args) for one in h.sent]


def test_entries_run_when_they_are_due() -> None:
    numbers = iter(range(100))
    entries = {
        "each minute": {"task": "minutes", "schedule": crontab(), "args": (1, BeatLazyFunc(lambda: next(numbers))), "options": {"queue": "q", "expires": 30}},
        "each 25 s": {"task": "seconds", "schedule": 25.0},
        "each 50 s": {"task": "fifties", "schedule": schedule(timedelta(seconds=50)), "kwargs": {"x": 2}},
    }
    with beat(entries) as h:
        h.advance(seconds=120)
        sent = h.sent
        assert [one.args for one in sent if one.name == "minutes"] == [(1, 0), (1, 1)]
        assert [one.name for one in sent].count("seconds") == 4
        assert [one.kwargs for one in sent if one.name == "fifties"] == [{"x": 2}] * 2
        assert [one.options for one in sent if one.name == "minutes"] == [{"queue": "q", "expires": 30}] * 2
        assert len({one.id for one in sent}) == len(sent)
        [each_minute, *_] = planned(h.installation)
        assert (each_minute.name, each_minute.task, each_minute.schedule, each_minute.runs) == ("each 25 s", "seconds", "every 0:00:25", 4)
        assert each_minute.last_run == NOW.timestamp() + 100 and each_minute.next_run == NOW.timestamp() + 125


def test_every_run_happens_once_through_crashes() -> None:
    with beat({"each minute": {"task": "minutes", "schedule": crontab()}}) as h:
        for minute in range(60):
            h.crash(CRASH_POINTS[minute % len(CRASH_POINTS)])
            h.advance(seconds=60)
            if minute % 7 == 0:
                begin(h, h._app.conf.beat_schedule)  # the next worker starts
        assert len(h.sent) == 60
        assert len({one.id for one in h.sent}) == 60


@pytest.mark.parametrize(("catch_up", "count"), [("one", 1), ("none", 0), ("all", 5)])
def test_runs_that_were_missed(catch_up: CatchUp, count: int) -> None:
    with beat({"hourly": {"task": "hours", "schedule": crontab(minute=0)}}, catch_up) as h:
        h._keyspace.now += 5 * 3600 + 120  # nobody worked
        h.advance(seconds=1)
        assert len(h.sent) == count
        h.advance(hours=1)
        assert len(h.sent) == count + 1


def test_each_sunrise_comes_once() -> None:
    pytest.importorskip("ephem", reason="solar schedules need it")
    with beat({"rooster": {"task": "crow", "schedule": solar("sunrise", 52.5, 13.4)}}) as h:  # Berlin in March: about 5:45 UTC, each day 2 min earlier
        [entry] = planned(h.installation)
        assert entry.next_run is not None and datetime.fromtimestamp(entry.next_run, UTC).strftime("%d %H") == "02 05"
        for day in range(10):
            h.crash(CRASH_POINTS[day % len(CRASH_POINTS)])
            h.advance(hours=24)
        assert [one.name for one in h.sent] == ["crow"] * 10
        begin(h, h._app.conf.beat_schedule)
        h.advance(hours=24)
        assert len(h.sent) == 11


def test_changed_and_removed_entries() -> None:
    with beat({"a": {"task": "old", "schedule": 60}, "b": {"task": "other", "schedule": 60}}) as h:
        h.advance(seconds=61)
        begin(h, {"a": {"task": "new", "schedule": 10}})
        h.advance(seconds=20)
        assert [one.name for one in h.sent].count("new") == 2
        assert sorted(one.name for one in h.sent if one.name != "new") == ["old", "other"]
        assert [one.name for one in planned(h.installation)] == ["a"]
        begin(h, {"a": {"task": "new", "schedule": 10}, "b": {"task": "other", "schedule": 30}})
        assert [one.name for one in planned(h.installation)] == ["a", "b"]


def test_a_restart_moves_no_run() -> None:
    entries = {"a": {"task": "a", "schedule": 60}}
    with beat(entries) as h:
        for _ in range(12):
            h.advance(seconds=10)
            begin(h, entries)
        assert len(h.sent) == 2


class Own(crontab):  # type: ignore[misc]
    pass


def test_what_it_cannot_do_is_refused_with_every_reason() -> None:
    app = install(Celery("shop", broker="redis://127.0.0.1:1/0", set_as_current=False), beat=True)
    installation = installation_of(app)
    assert installation is not None
    app.conf.beat_schedule = {
        "own": {"task": "t", "schedule": Own()},
        "relative": {"task": "t", "schedule": schedule(60, relative=True)},
        "taskless": {"schedule": 60},
        "never": {"task": "t", "schedule": 0},
        "good": {"task": "t", "schedule": 60},
    }
    app.conf.beat_scheduler = "django_celery_beat.schedulers:DatabaseScheduler"
    try:
        with pytest.raises(SetupError) as refused:
            check_beat(installation)
    finally:
        remove_installation(installation)
    text = str(refused.value)
    for part in ("DatabaseScheduler", "entry 'own': its schedule is a", "entry 'relative': relative=True", "entry 'taskless' names no task", "entry 'never': a schedule"):
        assert part in text
    assert "good" not in text


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    # A backend, because other tests of this process may have declared computations that reply.
    app = Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False)
    app.conf.beat_schedule = {"often": {"task": "often", "schedule": 0.1, "options": {"queue": "others"}}}
    install(app, Settings(partitions=2), beat=True)
    installation = installation_of(app)
    assert installation is not None

    def leave(**_: object) -> None: ...

    signals.setup_logging.connect(leave)
    yield app
    signals.setup_logging.disconnect(leave)
    remove_installation(installation)
    installation.group.client.close()
    close_app(app)
    _set_task_join_will_block(False)


def test_a_worker_runs_the_schedule(app: Celery) -> None:
    installation = installation_of(app)
    assert installation is not None
    client = installation.group.client
    with start_worker(app, queues=["partition"], perform_ping_check=False):
        wait_until(lambda: client.llen("others") >= 3, timeout=60)
    count = client.llen("others")
    with start_worker(app, queues=["partition"], perform_ping_check=False):
        wait_until(lambda: client.llen("others") > count, timeout=60)
    [entry] = planned(installation)
    assert entry.runs == client.llen("others")


def test_a_worker_does_not_start_with_a_schedule_that_it_cannot_run(app: Celery) -> None:
    app.conf.beat_schedule = {"own": {"task": "t", "schedule": Own()}}
    with pytest.raises(WorkerRefused, match="entry 'own'"), start_worker(app, queues=["partition"], perform_ping_check=False):
        pass
