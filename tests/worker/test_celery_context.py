"""What a Celery worker provides around tasks also exists around computations: signals, `current_task`, the app's `Task.__call__`, Django support."""

from __future__ import annotations

import json
import logging
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from traceback import walk_tb
from typing import Any

import msgspec
import pytest
from celery import Celery, Task, current_task, signals

from celery_partitions import MessageError, RetryPolicy, build_application, key_extractor, source, state_computation
from celery_partitions.model.policy import Exhausted, PolicyChange
from celery_partitions.testing import harness
from celery_partitions.worker.logs import JsonFormatter
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import LoopByHand, loop_by_hand


@dataclass
class Visit:
    who: str
    number: int = 0


class Visits:
    numbers: tuple[int, ...] = ()


@key_extractor
def who(visit: Visit) -> str:
    return visit.who


#: What `visit` does in addition, set by each test; and what it recorded.
doing: list[Callable[[Visit], Any]] = []
noted: list[Any] = []


@state_computation("tests.context: visit", state=Visits, key=who, on_error=RetryPolicy(attempts=3, backoff_seconds=0.001))
def visit(visit: Visit, visits: Visits) -> None:
    visits.numbers += (visit.number,)
    noted.append(doing[0](visit))


@state_computation("tests.context: visit in time", state=Visits, key=who, time_limit=60)
def visit_in_time(visit: Visit, visits: Visits) -> None:
    visits.numbers += (visit.number,)
    noted.append(doing[0](visit))


@state_computation("tests.context: stage", state=Visits)
def stage(visit: Visit, visits: Visits) -> Visit:
    visits.numbers += (visit.number,)
    noted.append(doing[0](visit))
    return visit


build_application("tests.context", source("tests.context: visits", type=Visit).key_by(who).to(stage, name="tests.context: count").to_sinks([]))
COMPUTATIONS = {"tests.context: visit": visit, "tests.context: visit in time": visit_in_time}


@contextmanager
def loop_of(live: LiveGroup) -> Iterator[LoopByHand]:
    """A loop whose app has the computations as tasks, as in a worker."""
    noted.clear()
    with loop_by_hand(live, tasks=True) as loop:
        yield loop


def run(live: LiveGroup, loop: LoopByHand, visits: list[Visit], name: str = "tests.context: visit") -> list[str]:
    ids = [live.send_task(name, {"who": one.who, "number": one.number}, task_id=f"{one.who}-{one.number}") for one in visits]
    loop.look_again()
    loop.take_turns()
    return ids


@contextmanager
def listening(signal: Any, receiver: Callable[..., Any]) -> Iterator[None]:
    signal.connect(receiver, weak=False)
    try:
        yield
    finally:
        signal.disconnect(receiver)


@pytest.mark.parametrize("name", [*COMPUTATIONS, "tests.context: visits"])
def test_receivers_get_each_message_before_and_after_its_call(make_live: Callable[..., LiveGroup], name: str) -> None:
    received: list[Any] = []

    def before(sender: Any, task_id: str, task: Any, args: Any, kwargs: Any, **_: Any) -> None:
        assert sender is task
        assert task.request.id == current_task.request.id == task_id
        received.append(("before", task_id, args[0].number))

    def after(task_id: str, state: str, retval: Any, **_: Any) -> None:
        received.append(("after", task_id, state))

    live = make_live(PARTITIONS=1)
    doing[:] = [lambda visit: received.append(("within", current_task.request.id))]
    with loop_of(live) as loop, listening(signals.task_prerun, before), listening(signals.task_postrun, after):
        run(live, loop, [Visit("a", 1), Visit("a", 2)], name)
    first = received[0][1]
    assert received[:3] == [("before", first, 1), ("within", first), ("after", first, "SUCCESS")]
    assert [one[0] for one in received] == ["before", "within", "after"] * 2


def test_receivers_get_a_failure_and_cannot_break_anything(make_live: Callable[..., LiveGroup]) -> None:
    received: list[Any] = []

    def after(task_id: str, state: str, retval: Any, **_: Any) -> None:
        received.append((task_id, state, retval))
        raise ValueError("a broken listener")

    live = make_live(PARTITIONS=1)
    wrong = ZeroDivisionError("no")

    def fail_once(visit: Visit) -> None:
        if not received:
            raise wrong

    doing[:] = [fail_once]
    with loop_of(live) as loop, listening(signals.task_postrun, after):
        run(live, loop, [Visit("a", 1), Visit("b", 2)])
        assert received[:2] == [("a-1", "FAILURE", wrong), ("b-2", "SUCCESS", None)]
        assert live.group.states.get(visit.computation, "b").numbers == (2,)


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("name", COMPUTATIONS)
def test_current_task_is_the_message(make_live: Callable[..., LiveGroup], name: str, listens: bool) -> None:
    live = make_live(PARTITIONS=1)

    def look(visit: Visit) -> Any:
        record = logging.getLogger("users").makeRecord("users", logging.INFO, __file__, 1, "text", (), None)
        line = json.loads(JsonFormatter().format(record))
        request = current_task.request
        return current_task.name, request.id, request.retries, request.args[0].number, line["task"], line["message_id"]

    doing[:] = [look]
    with loop_of(live) as loop:
        if listens:
            with listening(signals.task_prerun, lambda **_: None):
                run(live, loop, [Visit("a", 1), Visit("b", 2)], name)
        else:
            run(live, loop, [Visit("a", 1), Visit("b", 2)], name)
        assert not current_task
    assert noted == [(name, "a-1", 0, 1, name, "a-1"), (name, "b-2", 0, 2, name, "b-2")]


def test_current_task_in_a_retry_and_in_a_message_applied_again(make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(PARTITIONS=1)
    failed: list[str] = []

    def look(visit: Visit) -> Any:
        if visit.number == 2 and not failed:
            failed.append("once")
            raise ValueError("once")
        return current_task.request.id, current_task.request.retries

    doing[:] = [look]
    with loop_of(live) as loop:
        run(live, loop, [Visit("a", 1), Visit("a", 2)])
        while len(noted) < 3:
            loop.look_again()
            loop.take_turns()
    assert noted == [("a-1", 0), ("a-1", 0), ("a-2", 1)]


def test_current_task_in_the_harness() -> None:
    noted.clear()
    doing[:] = [lambda visit: current_task.request.id]
    with harness(visit) as h:
        h.send(Visit("a"), message_id="mine")
    assert noted == ["mine"]


@pytest.mark.parametrize("name", COMPUTATIONS)
def test_the_apps_own_task_call_runs_computations(make_live: Callable[..., LiveGroup], name: str) -> None:
    inside: list[str] = []

    class WithContext(Task):  # type: ignore[misc]
        """As in Flask's documentation."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            inside.append(self.name)
            try:
                return self.run(*args, **kwargs)
            finally:
                inside.pop()

    live = make_live(PARTITIONS=1)
    live.app.task_cls = WithContext
    doing[:] = [lambda visit: list(inside)]
    with loop_of(live) as loop:
        run(live, loop, [Visit("a", 1), Visit("a", 2)], name)
    assert noted == [[name], [name]]


@pytest.fixture
def django_database(tmp_path: Path) -> Iterator[Any]:
    """Django's connection to a database, in a process that has a worker's Django support."""
    import django
    from celery.fixups.django import DjangoWorkerFixup
    from django.conf import settings
    from django.db import connections

    if not settings.configured:
        settings.configure(DATABASES={"default": {"ENGINE": "django.db.backends.sqlite3"}})
        django.setup()
    connections["default"].settings_dict["NAME"] = tmp_path / "database"  # Django never closes one in memory
    fixup = DjangoWorkerFixup(Celery("django", set_as_current=False)).install()
    yield connections["default"]
    signals.task_prerun.disconnect(fixup.on_task_prerun)
    signals.task_postrun.disconnect(fixup.on_task_postrun)
    signals.worker_process_init.disconnect(fixup.on_worker_process_init)
    signals.beat_embedded_init.disconnect(fixup.close_database)
    connections.close_all()


def query(connection: Any) -> int:
    with connection.cursor() as cursor:
        return int(cursor.execute("select 7").fetchone()[0])


def test_a_database_connection_that_broke_is_replaced(make_live: Callable[..., LiveGroup], django_database: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the same batch and in later ones, as for a stock task."""
    live = make_live(PARTITIONS=1)
    monkeypatch.setitem(django_database.settings_dict, "CONN_MAX_AGE", 3600)
    monkeypatch.setattr(django_database, "is_usable", lambda: False)  # like PostgreSQL's after an error

    broke: set[int] = set()

    def use(visit: Visit) -> Any:
        query(django_database)
        if visit.number % 2 == 0 and visit.number not in broke:
            broke.add(visit.number)
            django_database.connection.close()  # as the server does
        return query(django_database) and visit.number

    doing[:] = [use]
    with loop_of(live) as loop:
        run(live, loop, [Visit("a", 1), Visit("b", 2), Visit("c", 3)])
        assert noted[:2] == [1, 3]
        run(live, loop, [Visit("d", 4)])
        run(live, loop, [Visit("e", 5)])
        assert {1, 3, 5} <= set(noted)


def test_a_batch_shares_a_database_connection(make_live: Callable[..., LiveGroup], django_database: Any) -> None:
    live = make_live(PARTITIONS=1)
    doing[:] = [lambda visit: (query(django_database), django_database.connection)[1]]
    with loop_of(live) as loop:
        run(live, loop, [Visit("a", 1), Visit("b", 2)])
        first, second = noted
        assert first is second
        assert django_database.connection is None  # CONN_MAX_AGE is 0: it was closed after the batch
        with pytest.raises(sqlite3.ProgrammingError):
            first.execute("select 7")


def test_delay_on_commit(make_live: Callable[..., LiveGroup], django_database: Any) -> None:
    from django.db import transaction

    live = make_live(PARTITIONS=1)
    with loop_of(live):
        with transaction.atomic():
            visit.delay_on_commit(Visit("a", 1), message_id="mine")
            assert live.client.llen("partition.0") == 0
            with pytest.raises(MessageError, match="who"):
                visit.delay_on_commit({"number": 1})
        assert live.client.llen("partition.0") == 1
        with pytest.raises(ZeroDivisionError), transaction.atomic():
            visit.delay_on_commit(Visit("a", 2))
            raise ZeroDivisionError
        assert live.client.llen("partition.0") == 1


def failing(visit: Visit) -> None:
    raise ZeroDivisionError(visit.who)


@pytest.mark.parametrize("exhausted", ["dead_letter", "hold"])
def test_failures_are_signalled_as_those_of_tasks(make_live: Callable[..., LiveGroup], exhausted: Exhausted) -> None:
    heard: list[Any] = []

    def retried(sender: Any, request: Any, reason: Any, einfo: Any, **_: Any) -> None:
        heard.append(("retry", sender.name, request.id, request.retries, str(reason), "in failing" in str(einfo)))

    def failed(sender: Any, task_id: str, exception: Any, args: Any, traceback: Any, einfo: Any, **_: Any) -> None:
        names = [frame.f_code.co_name for frame, _ in walk_tb(traceback)]
        heard.append(("failure", sender.name, task_id, args[0].who, str(exception), names))

    live = make_live(PARTITIONS=1)
    doing[:] = [failing]
    with loop_of(live) as loop, listening(signals.task_retry, retried), listening(signals.task_failure, failed):
        change = PolicyChange(attempts=1, backoff_seconds=0.001, exhausted=exhausted)
        loop.runner.follow({visit.name: msgspec.json.encode(change)})
        run(live, loop, [Visit("a", 1)])
        while len(heard) < 2:
            loop.look_again()
            loop.take_turns()
    name = "tests.context: visit"
    assert heard == [("retry", name, "a-1", 0, "a", True), ("failure", name, "a-1", "a", "a", ["visit", "failing"])]


def test_an_error_in_the_log_has_the_users_frames(make_live: Callable[..., LiveGroup], caplog: pytest.LogCaptureFixture) -> None:
    """Error trackers group by them."""
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    doing[:] = [failing]
    with loop_of(live) as loop:
        run(live, loop, [Visit("a", 1)], "tests.context: visit in time")
    (record,) = [one for one in caplog.records if one.exc_info and "ZeroDivisionError" in one.getMessage()]
    assert record.exc_info is not None
    assert [frame.f_code.co_name for frame, _ in walk_tb(record.exc_info[2])] == ["visit_in_time", "failing"]
    assert record.levelno == logging.ERROR
