"""The spans of a step and its commit, in process: each message's outcome, and which code ran in which span."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.trace import SpanContext

from celery_partitions.model.computation import Computation
from celery_partitions.model.declaration import declare
from celery_partitions.store.commits import Commit, CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.tracing.headers import headers_of
from celery_partitions.tracing.spans import Tracing
from celery_partitions.worker.tracing import TracedSteps, TracedStore
from tests.model.build import raw_envelope, raw_message, read, rules, slots_for
from tests.tracing.exporter import Seen

Spans = Callable[[], list[Seen]]

PARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"


class Nothing:
    pass


def counting(body: Callable[[Any], None] = lambda message: None) -> Computation:
    def count(message: dict[str, Any], state: Nothing) -> None:
        body(message)

    return declare(count, name="count", state=Nothing, key=lambda message: b"\xff" if message["key"] == "no text" else message["key"])


def message(key: str = "ann", message_id: str = "m0", **headers: Any) -> bytes:
    return raw_message("count", {"key": key}, message_id, **headers)


@pytest.fixture
def traced(provider: TracerProvider) -> TracedSteps:
    return TracedSteps(Tracing(Names("partition"), with_keys=False, provider=provider))


def run(traced: TracedSteps, computation: Computation, raws: list[bytes], by: Any = None, **how: Any) -> Any:
    items = read([computation], raws)
    return traced.step(items, slots_for(items, {}), by or rules(), **how)


def outcomes(spans: list[Seen]) -> list[Any]:
    return [span.attributes["celery_partitions.outcome"] for span in spans]


def test_a_computation_runs_in_its_messages_span(traced: TracedSteps, spans: Spans) -> None:
    inside: list[SpanContext] = []
    computation = counting(lambda _: inside.append(trace.get_current_span().get_span_context()))
    run(traced, computation, [message(message_id="m1", traceparent=PARENT + "01", root_id="r"), message(message_id="m2")])
    first, second = spans()
    assert [each.span_id for each in inside] == [first.span, second.span]
    assert (first.name, first.kind) == ("process count", "CONSUMER")
    assert (f"{first.trace:x}", f"{first.parent:x}") == ("af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")
    assert second.parent is None and second.trace != first.trace
    assert first.attributes == {
        "messaging.system": "celery",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "partition.0",
        "messaging.destination.template": "partition.{number}",
        "messaging.destination.partition.id": "0",
        "messaging.message.id": "m1",
        "messaging.message.conversation_id": "r",
        "celery.task_name": "count",
        "celery_partitions.outcome": "done",
    }
    assert first.began <= first.ended <= second.ended
    assert trace.get_current_span() is trace.INVALID_SPAN


def test_an_unsampled_parent_is_respected_and_passed_on(traced: TracedSteps, spans: Spans) -> None:
    inside: list[SpanContext] = []
    computation = counting(lambda _: inside.append(trace.get_current_span().get_span_context()))
    assert run(traced, computation, [message(traceparent=PARENT + "00")]).taken == 1
    assert spans() == []
    assert f"{inside[0].span_id:x}" == "b7ad6b7169203331" and not inside[0].trace_flags.sampled


@pytest.mark.parametrize("header", [7, "", "nonsense", None, ["a"], {"a": 1}, PARENT + "zz"])
def test_an_invalid_context_header_is_harmless(traced: TracedSteps, spans: Spans, header: Any) -> None:
    assert len(run(traced, counting(), [message(traceparent=header, tracestate=header, baggage=header)]).done) == 1
    assert (spans()[0].parent, outcomes(spans())) == (None, ["done"])


@pytest.mark.parametrize("flags", ["00", "01"])
def test_a_timer_fires_in_its_own_trace(traced: TracedSteps, spans: Spans, flags: str) -> None:
    run(traced, counting(), [message(traceparent=PARENT + flags, timer=1.5)])
    (span,) = spans()
    assert span.parent is None and f"{span.trace:x}" not in PARENT
    assert [f"{link:x}" for link in span.links] == (["b7ad6b7169203331"] if flags == "01" else [])


def test_spans_record_a_failure_and_its_retry(traced: TracedSteps, spans: Spans) -> None:
    def fail(message: dict[str, Any]) -> None:
        if message["key"] == "bad":
            raise KeyError("no such thing")

    raws = [message("bad", "m1"), message("bad", "m2"), message("good", "m3"), raw_envelope(b"no", headers={"id": "m4"})]
    run(traced, counting(fail), raws)
    assert [span.attributes["messaging.message.id"] for span in spans()] == ["m1", "m2", "m3", "m4"]
    assert outcomes(spans()) == ["retried", "waits", "done", "not-json"]
    failed, _, _, broken = spans()
    assert failed.exceptions == [["KeyError", "'no such thing'"]]
    assert failed.error == "KeyError: 'no such thing'"
    assert failed.attributes["error.type"] == "KeyError"
    assert broken.error is not None and broken.attributes["error.type"] == "not-json"
    run(traced, counting(fail), [message("bad", "m5")], by=rules(retries=0))
    assert outcomes(spans()[4:]) == ["computation-failed"]
    assert spans()[4].exceptions == failed.exceptions


def test_a_second_attempt_has_its_number(traced: TracedSteps, spans: Spans) -> None:
    run(traced, counting(), [message(), message(message_id="m1")], mailbox_of="ann", attempt=3)
    assert [span.attributes.get("celery_partitions.attempt") for span in spans()] == [3, None]


def test_a_message_that_hung_has_a_span_although_it_is_not_called(traced: TracedSteps, spans: Spans) -> None:
    run(traced, counting(), [message()], failed="took more than 1 s")
    assert [(span.error, outcomes([span])) for span in spans()] == [("TimeLimitExceeded: took more than 1 s", ["retried"])]


def test_a_message_that_the_step_had_no_time_for_has_no_span(traced: TracedSteps, spans: Spans) -> None:
    clock = iter(range(100)).__next__
    outcome = run(traced, counting(), [message(message_id=f"m{n}") for n in range(5)], by=rules(clock=lambda: float(clock())))
    assert 0 < outcome.taken < 5
    assert len(spans()) == len(traced.spans["0"]) == outcome.taken


def test_processing_spans_have_keys_only_with_tracing_keys(traced: TracedSteps, spans: Spans) -> None:
    run(traced, counting(), [message("ann")])
    traced.tracing.with_keys = True
    run(traced, counting(), [message("ann"), message("no text")])
    assert [span.attributes.get("celery_partitions.key") for span in spans()] == [None, "ann", "\\xff"]


def test_headers_of_anything() -> None:
    assert headers_of(b"\xff") == headers_of(b"[]") == headers_of(b'{"headers":7}') == headers_of(b"{}") == {}
    assert json.dumps(headers_of(message(traceparent="x"))["traceparent"]) == '"x"'


# The commit.


@pytest.fixture
def store(traced: TracedSteps, client: redis.Redis) -> TracedStore:
    return TracedStore(CommitStore(client, Names("partition"), batch_messages=10, batch_bytes=1000), traced)


def commit_of(raws: list[bytes], token: int = 1) -> Commit:
    return Commit(Lease("0", token), 0, 0, None, len(raws), raws[0], raws[-1], [], 10)


def test_a_commit_links_to_its_messages_and_belongs_to_the_first_ones_trace(
    traced: TracedSteps, store: TracedStore, client: redis.Redis, spans: Spans
) -> None:
    raws = [message(message_id="m1", traceparent=PARENT + "00"), message(message_id="m2"), message(message_id="m3")]
    client.hset("{partition.0}:meta", "token", 1)
    client.lpush("partition.0", *raws)
    store.peek(Lease("0", 1))
    run(traced, counting(), raws)
    assert store.finish(store.begin(commit_of(raws))).status == "ok"
    second, third, commit = spans()
    assert (commit.name, commit.kind, commit.trace, commit.parent) == ("commit partition", "CLIENT", second.trace, second.span)
    assert commit.links == [second.span, third.span]
    assert commit.attributes["messaging.batch.message_count"] == 3
    assert commit.attributes["messaging.operation.type"] == "settle"
    assert (commit.attributes["celery_partitions.outcome"], commit.error) == ("ok", None)


def test_a_refused_commit_records_the_refusal(traced: TracedSteps, store: TracedStore, client: redis.Redis, spans: Spans) -> None:
    client.hset("{partition.0}:meta", "token", 2)
    run(traced, counting(), [message()])
    assert store.finish(store.begin(commit_of([message()]))).status == "fenced"
    assert (outcomes(spans()), spans()[1].error) == (["done", "fenced"], "not written: its messages are still in the queue")


def test_a_commit_that_is_sent_again_is_one_span(
    traced: TracedSteps, store: TracedStore, client: redis.Redis, spans: Spans
) -> None:
    client.hset("{partition.0}:meta", "token", 1)
    client.lpush("partition.0", message())
    run(traced, counting(), [message()])
    commit = commit_of([message()])
    in_flight = store.begin(commit)
    in_flight.connection.disconnect()  # the answer is lost
    client.connection_pool.release(in_flight.connection)
    assert store.send(commit).status in ("ok", "already")
    assert [span.name for span in spans()] == ["process count", "commit partition"]


def test_unsampled_messages_have_no_commit_span(
    traced: TracedSteps, store: TracedStore, client: redis.Redis, spans: Spans
) -> None:
    client.hset("{partition.0}:meta", "token", 1)
    raws = [message(traceparent=PARENT + "00")]
    client.lpush("partition.0", *raws)
    run(traced, counting(), raws)
    assert store.finish(store.begin(commit_of(raws))).status == "ok"
    assert spans() == []
