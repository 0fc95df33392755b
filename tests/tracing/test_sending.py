"""A producer's spans, and the context that its messages carry. With tracing off, messages are unchanged."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
import redis
from celery import Celery
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.semconv._incubating.attributes import messaging_attributes

from celery_partitions import MessageError, partition_of
from celery_partitions.runtime.registry import installation_of
from celery_partitions.sources.outbox import Outbox, Run
from celery_partitions.sources.patience import Patience
from celery_partitions.sources.stop_signal import Stop
from celery_partitions.tracing.spans import Tracing
from celery_partitions.worker.tracing import check_tracing
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.support.applications.traced import Bill, Order, billed, sales
from tests.tracing.exporter import Seen, provider_to

Spans = Callable[[], list[Seen]]

QUEUE = f"partition.{partition_of('ann', 4)}"


def headers_in(client: redis.Redis, queue: str = QUEUE) -> list[dict[str, Any]]:
    """The headers of a queue's messages, oldest first."""
    return [json.loads(raw)["headers"] for raw in reversed(client.lrange(queue, 0, -1))]


def carried(headers: dict[str, Any]) -> tuple[int, int, bool]:
    """The trace, the span, and whether it is sampled, from the header `traceparent`. Other flags are ignored here."""
    _, trace_id, span_id, flags = headers["traceparent"].split("-")
    return int(trace_id, 16), int(span_id, 16), bool(int(flags, 16) & 1)


def context_of(span: Seen) -> tuple[int, int, bool]:
    return span.trace, span.span, True


def test_delay_makes_a_span_whose_context_the_message_carries(traced_app: Celery, client: redis.Redis, spans: Spans) -> None:
    message_id = billed.delay(Bill("ann", 3)).id
    (span,) = spans()
    assert (span.name, span.kind, span.parent) == ("send traced bill", "PRODUCER", None)
    assert span.attributes == {
        "messaging.system": "celery",
        "messaging.operation.name": "send",
        "messaging.operation.type": "send",
        "messaging.destination.name": QUEUE,
        "messaging.destination.template": "partition.{number}",
        "messaging.destination.partition.id": QUEUE.rpartition(".")[2],
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": message_id,
        "celery.task_name": "traced bill",
    }
    (headers,) = headers_in(client)
    assert carried(headers) == context_of(span)


def test_the_attributes_are_those_of_the_conventions(traced_app: Celery, spans: Spans) -> None:
    billed.delay(Bill("ann", 3))
    known = {value for name, value in vars(messaging_attributes).items() if name.startswith("MESSAGING_")}
    assert {name for name in spans()[0].attributes if name.startswith("messaging.")} <= known


def test_send_many_makes_a_span_for_each_message(
    traced_app: Celery, client: redis.Redis, spans: Spans, provider: TracerProvider
) -> None:
    with provider.get_tracer("a web request").start_as_current_span("upload") as upload:
        billed.send_many([Bill("ann", 1), Bill("ann", 2)], id_of=lambda bill: f"bill {bill.amount}")
    first, second, _ = spans()
    assert [span.name for span in (first, second)] == ["create traced bill"] * 2
    assert first.parent == second.parent == upload.get_span_context().span_id
    assert [span.attributes["messaging.message.id"] for span in (first, second)] == ["bill 1", "bill 2"]
    assert list(map(carried, headers_in(client))) == [context_of(first), context_of(second)]


def test_in_a_sources_process_each_message_starts_a_trace(traced_app: Celery, client: redis.Redis, spans: Spans) -> None:
    installation: Any = installation_of(traced_app)
    with closing(Stop()) as stop:
        outbox = Outbox(installation, sales._receiver(), Run("{partition}:source:x:y"), Patience("x", stop))
        for number in range(2):
            outbox.put(Order("ann", "hat"), b"m%d" % number, lambda: b"")
        outbox.send()
    first, second = spans()
    assert (first.name, first.parent, second.parent) == ("create traced sales", None, None)
    assert first.trace != second.trace
    assert list(map(carried, headers_in(client))) == [context_of(first), context_of(second)]


def test_messages_sent_by_task_name_carry_a_context_too(traced_app: Celery, client: redis.Redis, spans: Spans) -> None:
    message_id = traced_app.send_task("traced bill", args=[{"customer": "ann", "amount": 1}]).id
    (span,) = spans()
    assert (span.name, span.attributes["messaging.message.id"]) == ("create traced bill", message_id)
    assert carried(headers_in(client)[0]) == context_of(span)
    traced_app.send_task("another project's task", queue="other")  # Celery's own instrumentation covers these
    assert len(spans()) == 1
    assert "traceparent" not in headers_in(client, "other")[0]


def test_a_context_passed_by_the_caller_is_kept(traced_app: Celery, client: redis.Redis) -> None:
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    billed.apply_async([Bill("ann", 3)], headers={"traceparent": given})
    assert headers_in(client)[0]["traceparent"] == given


def test_a_span_records_a_failure_to_send(traced_app: Celery, spans: Spans, settings: Settings) -> None:
    with pytest.raises(TypeError):
        billed.apply_async([Bill("ann", 3)], expires=object())
    (span,) = spans()
    assert span.error is not None
    assert span.exceptions[0][0] == "TypeError"
    with pytest.raises(MessageError):
        billed.delay({"customer": 1})  # it cannot be sent
    assert len(spans()) == 1


def test_sending_spans_have_keys_only_with_tracing_keys(traced_app: Celery, spans: Spans) -> None:
    billed.delay(Bill("ann", 3))
    billed.send_many([Bill("ann", 3)])
    assert "ann" not in str(spans())
    installation: Any = installation_of(traced_app)
    installation.tracing.with_keys = True
    billed.delay(Bill("ann", 3))
    billed.send_many([Bill("ann", 3)])
    sales.delay(Order("ann", "hat"))
    assert [span.attributes.get("celery_partitions.key") for span in spans()] == [None, None, "ann", "ann", "ann"]


def test_an_unsampled_trace_records_nothing_and_the_message_says_so(
    traced_app: Celery, client: redis.Redis, spans: Spans, exporter: Any
) -> None:
    unsampled = provider_to(exporter, ALWAYS_OFF).get_tracer("a web request")
    with unsampled.start_as_current_span("upload") as upload:
        billed.delay(Bill("ann", 1))
        billed.send_many([Bill("ann", 2)])
        traced_app.send_task("traced bill", args=[{"customer": "ann", "amount": 3}])
    assert spans() == []
    expected = upload.get_span_context().trace_id, upload.get_span_context().span_id, False
    assert list(map(carried, headers_in(client))) == [expected] * 3


def test_without_a_provider_there_are_no_spans(traced_app: Celery, client: redis.Redis, spans: Spans) -> None:
    installation: Any = installation_of(traced_app)
    installation.tracing = Tracing(installation.group.names, with_keys=False)
    assert not installation.tracing.is_configured
    billed.delay(Bill("ann", 1))
    billed.send_many([Bill("ann", 2)])
    assert spans() == []
    assert ["traceparent" in headers for headers in headers_in(client)] == [False, False]


def test_a_worker_warns_without_a_provider(traced_app: Celery, caplog: pytest.LogCaptureFixture) -> None:
    installation: Any = installation_of(traced_app)
    check_tracing(installation)
    assert caplog.messages == []
    installation.tracing = Tracing(installation.group.names, with_keys=False)
    check_tracing(installation)
    assert caplog.messages == ["partitions: PARTITIONS_TRACING is on, but no tracer provider is configured: no spans are exported"]


def test_with_tracing_off_no_spans_are_created_even_inside_a_span(
    make_app: MakeApp, settings: Settings, client: redis.Redis, spans: Spans, provider: TracerProvider
) -> None:
    app = make_app(settings.redis_url, replace(settings, tracing=False))
    with provider.get_tracer("a web request").start_as_current_span("upload"):
        billed.delay(Bill("ann", 1))
        billed.send_many([Bill("ann", 2)])
        app.send_task("traced bill", args=[{"customer": "ann", "amount": 3}])
    assert [span.name for span in spans()] == ["upload"]
    assert ["traceparent" in headers for headers in headers_in(client)] == [False] * 3
    assert trace.get_current_span() is trace.INVALID_SPAN
