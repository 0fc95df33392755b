"""Whether there are spans at all. OpenTelemetry is an extra, and is imported by nobody who did not ask for it."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, cast

from config.settings import Settings
from tasks.model.errors import SetupError
from tasks.store.names import Names

if TYPE_CHECKING:
    from tasks.tracing.spans import Tracing


def tracing_for(settings: Settings, names: Names) -> Tracing | None:
    """What makes a group's spans; None when `TRACING` is off. Raises `SetupError` where the extra is not installed."""
    if not settings.tracing:
        return None
    try:
        module = import_module("tasks.tracing.spans")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "opentelemetry":
            raise
        raise SetupError(
            "TRACING is on, and OpenTelemetry is not installed: pip install 'celery-partitions[otel]', or unset TRACING"
        ) from error
    return cast("Tracing", module.Tracing(names, with_keys=settings.tracing_keys))
