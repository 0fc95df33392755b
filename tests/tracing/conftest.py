"""An in-memory tracer provider, and a project's app that sends its spans there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from celery import Celery, signals
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from celery_partitions.runtime.registry import installation_of
from celery_partitions.tracing.spans import Tracing
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp, make_app
from tests.tracing.exporter import Seen, provider_to, seen

__all__ = ["make_app"]


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def spans(exporter: InMemorySpanExporter) -> Callable[[], list[Seen]]:
    """The spans that have ended, in order."""
    return lambda: [seen(span) for span in exporter.get_finished_spans()]


@pytest.fixture
def provider(exporter: InMemorySpanExporter) -> TracerProvider:
    return provider_to(exporter)


@pytest.fixture
def traced_app(make_app: MakeApp, settings: Settings, provider: TracerProvider) -> Iterator[Celery]:
    """An app with `PARTITIONS_TRACING`; `with_keys` is set by a test on its `Tracing`."""
    receivers = signals.before_task_publish.receivers
    before = list(receivers)
    app = make_app(settings.redis_url, replace(settings, tracing=True))
    installation: Any = installation_of(app)
    installation.tracing = Tracing(installation.group.names, with_keys=False, provider=provider)
    yield app
    receivers[:] = before
    signals.before_task_publish.sender_receivers_cache.clear()
