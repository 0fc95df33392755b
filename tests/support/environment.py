"""The environment variables that must not reach a test from the developer's shell."""

from __future__ import annotations

import os

from celery_partitions_config.settings import Settings

#: Celery prefers `CELERY_BROKER_URL` to any configuration, Flower reads `FLOWER_*`, and OpenTelemetry `OTEL_*`.
FOREIGN_PREFIXES = ("CELERY_", "FLOWER_", "OTEL_")

#: Nothing listens on port 1: a test that forgets to say which server is refused, and never writes to a
#: developer's Redis on the default port.
NO_SERVER_URL = "redis://127.0.0.1:1/0"


class _Names(dict[str, str]):
    """An empty environment that remembers what it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: set[str] = set()

    def get(self, name: str, default: str = "") -> str:  # type: ignore[override]
        self.asked.add(name)
        return default


def setting_names() -> set[str]:
    """Every variable that `Settings.from_environment` reads."""
    names = _Names()
    Settings.from_environment(names)
    return names.asked


def clear_environment() -> None:
    """Take every setting out of this process's environment (and so of its children's)."""
    settings = setting_names()
    for name in list(os.environ):
        if name in settings or name.startswith(FOREIGN_PREFIXES):
            del os.environ[name]
    os.environ["REDIS_URL"] = NO_SERVER_URL
