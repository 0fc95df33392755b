"""Traces through real workers: one trace from the producer to the messages that the last commit pushed."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from opentelemetry.sdk.trace import TracerProvider

from tests.fundamentals.live import LiveGroup
from tests.support.applications import traced as application
from tests.support.applications.traced import Bill, Order, billed, refuse, sales
from tests.support.wait import wait_until
from tests.tracing.exporter import Seen, read_spans

Spans = Callable[[], list[Seen]]


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "spans"


@pytest.fixture
def live(redis_url: str, tmp_path: Path, file: Path) -> Iterator[LiveGroup]:
    env = {"PARTITIONS_TRACING": 1, "SPANS_FILE": file, "PARTITIONS": 2, "PARTITIONS_LEASE_SECONDS": 10}
    with LiveGroup(redis_url, tmp_path, **env) as live:
        yield live
    live.print_logs()


def start(live: LiveGroup) -> None:
    live.start_worker(module=application.__name__)


def wait_spans(file: Path, wanted: Callable[[list[Seen]], Any]) -> list[Seen]:
    wait_until(lambda: wanted(read_spans(file)), 60.0, message="the spans did not come")
    return read_spans(file)


def the(spans: list[Seen], name: str, **attributes: Any) -> Seen:
    """The only span with this name and these attributes."""
    (found,) = [span for span in spans if span.name == name and attributes.items() <= span.attributes.items()]
    return found


@pytest.fixture(autouse=True)
def two_partitions(monkeypatch: pytest.MonkeyPatch, settings: Any) -> None:
    """Set two partitions for the client's app too."""
    object.__setattr__(settings, "partitions", 2)


def test_a_trace_goes_through_a_pipeline(live: LiveGroup, traced_app: Celery, provider: TracerProvider, spans: Spans, file: Path) -> None:
    with provider.get_tracer("a web request").start_as_current_span("upload"):
        sales.send_many([Order("ann", "hat")])
    created, upload = spans()
    start(live)
    found = wait_spans(file, lambda all_: [span.links for span in all_ if span.name == "commit partition"][1:])
    checked, tallied = the(found, "process traced sales"), the(found, "process traced tally")
    own = the(found, "look into it")
    assert {span.trace for span in found} == {upload.trace}
    assert [created.parent, checked.parent, tallied.parent] == [upload.span, created.span, checked.span]
    assert own.parent == checked.span
    commits = {span.links[0]: span for span in found if span.name == "commit partition"}
    assert set(commits) == {checked.span, tallied.span}
    assert all(commit.attributes["celery_partitions.outcome"] == "ok" for commit in commits.values())
    assert tallied.attributes["messaging.message.conversation_id"] == created.attributes["messaging.message.id"]
    (plain_task,) = live.client.lrange("elsewhere", 0, -1)
    _, trace_id, span_id, _ = json.loads(plain_task)["headers"]["traceparent"].split("-")
    assert (int(trace_id, 16), int(span_id, 16)) == (upload.trace, tallied.span)
    assert live.client.lrange("traced out", 0, -1) == [b'"hat"']


def test_each_attempt_is_a_span_and_the_last_one_records_the_dead_letter(live: LiveGroup, traced_app: Celery, spans: Spans, file: Path) -> None:
    message_id = refuse.delay(Bill("ann", 7)).id
    start(live)
    found = wait_spans(file, lambda all_: sum(span.name == "commit partition" for span in all_) >= 2)
    tries = [span for span in found if span.name == "process traced refuse"]
    assert [span.attributes.get("celery_partitions.attempt", 1) for span in tries] == [1, 2]
    assert [span.attributes["celery_partitions.outcome"] for span in tries] == ["retried", "computation-failed"]
    assert {span.parent for span in tries} == {spans()[0].span}
    assert tries[1].exceptions == [["ValueError", "7 is refused"]]
    assert live.dead_letter_of(message_id)


def test_follow_ups_of_a_reply_belong_to_its_trace(live: LiveGroup, traced_app: Celery, spans: Spans, file: Path) -> None:
    billed.apply_async([Bill("ann", 7)], ignore_result=False, link=billed.s())
    start(live)
    found = wait_spans(file, lambda all_: sum(span.name == "process traced bill" for span in all_) == 2)
    first, second = [span for span in found if span.name == "process traced bill"]
    following = the(found, "send traced bill")
    assert (first.parent, following.parent, second.parent) == (spans()[0].span, first.span, following.span)
    assert {span.trace for span in found} == {spans()[0].trace}


def test_with_tracing_off_a_worker_ignores_a_messages_context(live: LiveGroup, traced_app: Celery, file: Path) -> None:
    sales.send_many([Order("ann", "hat")])
    live.env["PARTITIONS_TRACING"] = "0"
    start(live)
    wait_until(lambda: live.client.llen("elsewhere") == 1, 60.0, message="no output was sent")
    assert [span.name for span in read_spans(file)] == ["look into it"]
    assert "traceparent" not in json.loads(live.client.lrange("elsewhere", 0, -1)[0])["headers"]
