"""Switches tracing on. OpenTelemetry is an optional extra, imported only if `PARTITIONS_TRACING` is on."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from celery_partitions.model.errors import SetupError
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings

if TYPE_CHECKING:
    from celery_partitions.tracing.spans import Tracing


def tracing_for(settings: Settings, names: Names) -> Tracing | None:
    """The tracing of a group; None if `PARTITIONS_TRACING` is off. Raises `SetupError` if the extra is not installed."""
    if not settings.tracing:
        return None
    try:
        module = import_module("celery_partitions.tracing.spans")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise SetupError(
            "PARTITIONS_TRACING is on, but OpenTelemetry is not installed: pip install 'celery-partitions[otel]', or unset PARTITIONS_TRACING"
        ) from error
    return cast("Tracing", module.Tracing(names, with_keys=settings.tracing_keys))
