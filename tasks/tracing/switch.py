"""Whether there are spans at all. OpenTelemetry is an extra, and is imported by nobody who did not ask for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings

if TYPE_CHECKING:
    from celery_partitions.tracing.spans import Tracing


def tracing_for(settings: Settings, names: Names) -> Tracing | None:
    """What makes a group's spans; None when `PARTITIONS_TRACING` is off. Raises `SetupError` where the extra is not installed."""
    if not settings.tracing:
        return None
    try:
        module = import_module("celery_partitions.tracing.spans")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise SetupError(
            "PARTITIONS_TRACING is on, and OpenTelemetry is not installed: pip install 'celery-partitions[otel]', or unset PARTITIONS_TRACING"
        ) from error
    return cast("Tracing", module.Tracing(names, with_keys=settings.tracing_keys))
