"""The environment variables that must not reach a test from the developer's shell."""

from __future__ import annotations

import os

from celery_partitions_config.settings import SETTINGS

#: Celery prefers `CELERY_BROKER_URL` to any configuration, Flower reads `FLOWER_*`, and OpenTelemetry `OTEL_*`.
FOREIGN_PREFIXES = ("CELERY_", "FLOWER_", "OTEL_", "PARTITIONS_")

#: Nothing listens on port 1. A test that forgets to name a server gets a connection error and never writes to a
#: developer's Redis on the default port.
NO_SERVER_URL = "redis://127.0.0.1:1/0"

#: Fewer than the default, so that workers start quickly and a test can name the partition of a key.
PARTITIONS = 4


def setting_names() -> set[str]:
    """The name of every setting's variable."""
    return {one.variable for one in SETTINGS.values()}


def clear_environment() -> None:
    """Remove every setting from the environment of this process and its children. Then set an unreachable server and few partitions."""
    settings = setting_names()
    for name in list(os.environ):
        if name in settings or name.startswith(FOREIGN_PREFIXES):
            del os.environ[name]
    os.environ["REDIS_URL"] = NO_SERVER_URL
    os.environ["PARTITIONS"] = str(PARTITIONS)
