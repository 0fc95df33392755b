"""Exporters that let a test read spans: in memory for its own process, from a file for other processes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import ALWAYS_ON, Sampler


class Seen(NamedTuple):
    """A span that has ended."""

    name: str
    kind: str
    trace: int
    span: int
    parent: int | None
    links: list[int]
    attributes: dict[str, Any]
    error: str | None
    #: The type and text of the recorded exception.
    exceptions: list[list[str]]
    began: int
    ended: int


def seen(span: ReadableSpan) -> Seen:
    context = span.get_span_context()
    assert context is not None
    failed = not span.status.is_unset and not span.status.is_ok
    events = [event.attributes or {} for event in span.events]
    return Seen(
        span.name,
        span.kind.name,
        context.trace_id,
        context.span_id,
        None if span.parent is None else span.parent.span_id,
        [link.context.span_id for link in span.links],
        dict(span.attributes or {}),
        span.status.description if failed else None,
        [[str(each["exception.type"]), str(each["exception.message"])] for each in events],
        span.start_time or 0,
        span.end_time or 0,
    )


class FileExporter(SpanExporter):
    """Writes each span immediately as a line of JSON, because several processes append to one file."""

    def __init__(self, path: str) -> None:
        self.path = Path(path)

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        with self.path.open("a") as file:
            file.write("".join(json.dumps(seen(span)) + "\n" for span in spans))
        return SpanExportResult.SUCCESS


def provider_to(exporter: SpanExporter, sampler: Sampler = ALWAYS_ON) -> TracerProvider:
    provider = TracerProvider(sampler, shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider


def read_spans(path: Path) -> list[Seen]:
    """The spans exported so far. An incomplete line is ignored."""
    text = path.read_text() if path.exists() else ""
    return [Seen(*json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]
