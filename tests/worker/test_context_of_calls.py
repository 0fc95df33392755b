"""What a worker provides around tasks also exists around calls in flight, each call's own, however many are interleaved."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
from celery import Task, current_task, signals
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from celery_partitions import RetryPolicy, build_application, source, state_computation
from celery_partitions.tracing.spans import Tracing
from celery_partitions.worker.logs import JsonFormatter
from tests.fundamentals.live import LiveGroup
from tests.support.coroutines import run_apart
from tests.tracing.exporter import provider_to, seen
from tests.worker.by_hand import LoopByHand, loop_by_hand
from tests.worker.test_celery_context import Visit, Visits, django_database, listening, who

__all__ = ["django_database"]

#: How long a call waits. Calls that begin together overlap.
WAIT_SECONDS = 0.02


#: What a call does before and after it waits, set by each test; and the results, by the message's number.
doing: list[Callable[[Visit], Any]] = []
doing_async: list[Callable[[], Any]] = []
noted: dict[int, list[Any]] = {}


def note(visit: Visit) -> None:
    noted.setdefault(visit.number, []).append(doing[0](visit))


@state_computation("tests.calls: awaiting", state=Visits, key=who, on_error=RetryPolicy(attempts=3, backoff_seconds=0.001))
async def awaiting(visit: Visit, visits: Visits) -> None:
    note(visit)
    await asyncio.sleep(WAIT_SECONDS)
    visits.numbers += (visit.number,)
    note(visit)


@state_computation("tests.calls: with the ORM", state=Visits, key=who, on_error=RetryPolicy(attempts=8, backoff_seconds=0.001, exhausted="dead_letter"))
async def with_orm(visit: Visit, visits: Visits) -> None:
    visits.numbers += (visit.number,)
    await doing_async[0]()


@state_computation("tests.calls: in a thread", state=Visits, key=who, executor="threads", concurrency=8, time_limit=60)
def in_thread(visit: Visit, visits: Visits) -> None:
    note(visit)
    time.sleep(WAIT_SECONDS)
    visits.numbers += (visit.number,)
    note(visit)


@state_computation("tests.calls: waiting stage", state=Visits)
async def waiting_stage(visit: Visit, visits: Visits) -> Visit:
    await asyncio.sleep(WAIT_SECONDS)
    return visit


@state_computation("tests.calls: plain stage", state=Visits)
def plain_stage(visit: Visit, visits: Visits) -> Visit:
    visits.numbers += (visit.number,)
    note(visit)
    note(visit)
    return visit


visits_in = source("tests.calls: visits", type=Visit)
build_application("tests.calls", visits_in.key_by(who).to(waiting_stage).to(plain_stage).to_sinks([]))
NAMES = ["tests.calls: awaiting", "tests.calls: in a thread", "tests.calls: visits"]


@contextmanager
def loop_of(live: LiveGroup) -> Iterator[LoopByHand]:
    """A loop whose app has the computations as tasks, as in a worker."""
    noted.clear()
    with loop_by_hand(live, calls=True, tasks=True) as loop:
        yield loop


def run(live: LiveGroup, loop: LoopByHand, name: str, count: int = 6) -> None:
    """Send `count` messages of as many keys, and wait until they are committed."""
    for number in range(count):
        live.send_task(name, {"who": f"k{number}", "number": number}, task_id=f"id{number}")
    loop.look_again()
    loop.live_until(lambda: live.processed() == count and not loop.owned.parked)


def log_line() -> dict[str, Any]:
    record = logging.getLogger("users").makeRecord("users", logging.INFO, __file__, 1, "text", (), None)
    line: dict[str, Any] = json.loads(JsonFormatter().format(record))
    return line


@pytest.mark.parametrize("listens", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_current_task_and_log_fields_are_each_calls_own(make_live: Callable[..., LiveGroup], name: str, listens: bool) -> None:
    live = make_live(PARTITIONS=1)
    doing[:] = [lambda visit: (current_task.name, current_task.request.id, log_line()["task"], log_line()["message_id"])]
    with loop_of(live) as loop:
        if listens:
            with listening(signals.task_prerun, lambda **_: None):
                run(live, loop, name)
        else:
            run(live, loop, name)
    assert noted == {number: [(name, f"id{number}") * 2] * 2 for number in range(6)}


@pytest.mark.parametrize("name", NAMES)
def test_receivers_get_each_message_before_and_after_its_call(make_live: Callable[..., LiveGroup], name: str) -> None:
    received: list[tuple[str, str]] = []

    def before(sender: Any, task_id: str, task: Any, **_: Any) -> None:
        assert sender is task and task.request.id == current_task.request.id == task_id
        received.append(("before", task_id))

    def after(task_id: str, task: Any, state: str, **_: Any) -> None:
        assert task.request.id == task_id
        received.append(("after", task_id))

    live = make_live(PARTITIONS=1)
    doing[:] = [lambda visit: received.append(("within", f"id{visit.number}"))]
    with loop_of(live) as loop, listening(signals.task_prerun, before), listening(signals.task_postrun, after):
        run(live, loop, name)
    for number in range(6):
        mine = [what for what, task_id in received if task_id == f"id{number}"]
        around_waiting_stage = ["before", "after"] if name == "tests.calls: visits" else []
        assert mine == [*around_waiting_stage, "before", "within", "within", "after"]


def test_receivers_get_a_failure_and_the_next_try(make_live: Callable[..., LiveGroup]) -> None:
    received: list[Any] = []
    tries: list[int] = []

    def fail_first(visit: Visit) -> None:
        tries.append(current_task.request.retries)
        if len(tries) == 1:
            raise ZeroDivisionError

    live = make_live(PARTITIONS=1)
    doing[:] = [fail_first]
    with (
        loop_of(live) as loop,
        listening(signals.task_postrun, lambda state, **_: received.append(state)),
        listening(signals.task_retry, lambda request, **_: received.append(("retry", request.id))),
    ):
        run(live, loop, "tests.calls: awaiting", count=1)
    assert received == ["FAILURE", ("retry", "id0"), "SUCCESS"]
    assert tries == [0, 1, 1]


def test_the_apps_own_task_call_runs_blocking_calls(make_live: Callable[..., LiveGroup]) -> None:
    inside = threading.local()

    class WithContext(Task):  # type: ignore[misc]
        """As in Flask's documentation."""

        def __call__(self, *args: object, **kwargs: object) -> object:
            inside.name = self.name
            try:
                return self.run(*args, **kwargs)
            finally:
                inside.name = None

    live = make_live(PARTITIONS=1)
    live.app.task_cls = WithContext
    doing[:] = [lambda visit: inside.name]
    with loop_of(live) as loop:
        run(live, loop, "tests.calls: in a thread")
    assert noted == {number: ["tests.calls: in a thread"] * 2 for number in range(6)}


def test_djangos_connections_are_closed_after_each_blocking_call(make_live: Callable[..., LiveGroup], django_database: Any) -> None:
    """Each thread has its own connection. As CONN_MAX_AGE is 0, no call finds one that is open."""
    from django.db import connections

    def use(visit: Visit) -> bool:
        was_open = connections["default"].connection is not None
        with connections["default"].cursor() as cursor:
            cursor.execute("select 7")
        return was_open

    live = make_live(PARTITIONS=1)
    doing[:] = [use]
    with loop_of(live) as loop:
        run(live, loop, "tests.calls: in a thread", count=24)  # more than there are threads
    assert noted == {number: [False, True] for number in range(24)}


@pytest.mark.parametrize("listens", [False, True])
def test_djangos_connection_of_coroutines_is_replaced_when_it_broke(
    make_live: Callable[..., LiveGroup], django_database: Any, monkeypatch: pytest.MonkeyPatch, listens: bool
) -> None:
    """All coroutines share one, in a thread of asgiref. Once it is broken, the first call that uses it fails."""
    from asgiref.sync import sync_to_async
    from django.db import connections

    broken: list[Any] = []

    def use() -> None:
        with connections["default"].cursor() as cursor:
            cursor.execute("select 7")
        if not broken:
            broken.append(connections["default"].connection)
        elif connections["default"].connection is broken[0]:
            connections["default"].errors_occurred = True
            monkeypatch.setattr(connections["default"], "is_usable", lambda: False)  # like PostgreSQL's after an error
            raise OSError("the connection is closed")

    live = make_live(PARTITIONS=1)
    monkeypatch.setitem(connections.settings["default"], "CONN_MAX_AGE", 3600)
    doing_async[:] = [sync_to_async(use)]
    with loop_of(live) as loop, listening(signals.task_prerun, lambda **_: None) if listens else nullcontext():
        run(live, loop, "tests.calls: with the ORM")
    run_apart(sync_to_async(connections.close_all)())
    assert live.dead_letters() == []


@pytest.mark.parametrize("name", NAMES[:2])
def test_each_call_has_its_span_and_its_code_runs_in_it(make_live: Callable[..., LiveGroup], name: str) -> None:
    exporter = InMemorySpanExporter()
    live = make_live(PARTITIONS=1)
    installation: Any = live.installation
    installation.tracing = Tracing(live.names, with_keys=True, provider=provider_to(exporter))
    doing[:] = [lambda visit: trace.get_current_span().get_span_context().span_id]
    with loop_of(live) as loop:
        run(live, loop, name)
    spans = [seen(span) for span in exporter.get_finished_spans()]
    calls = {span.attributes["celery_partitions.key"]: span for span in spans if span.name == f"process {name}"}
    assert noted == {number: [calls[f"k{number}"].span] * 2 for number in range(6)}
    assert {span.attributes["celery_partitions.outcome"] for span in calls.values()} == {"done"}
    assert {link for span in spans if span.name.startswith("commit") for link in span.links} >= {span.span for span in calls.values()}
