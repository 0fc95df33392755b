"""The environment variables that must not reach a test from the developer's shell."""

from __future__ import annotations

import os

from celery_partitions_config.settings import SETTINGS

#: Celery prefers `CELERY_BROKER_URL` to any configuration, Flower reads `FLOWER_*`, and OpenTelemetry `OTEL_*`.
FOREIGN_PREFIXES = ("CELERY_", "FLOWER_", "OTEL_", "PARTITIONS_")

#: Nothing listens on port 1: a test that forgets to say which server is refused, and never writes to a
#: developer's Redis on the default port.
NO_SERVER_URL = "redis://127.0.0.1:1/0"

#: Fewer than the default, so that workers start soon, and a test can name the partition of a key.
PARTITIONS = 4


def setting_names() -> set[str]:
    """The variable of every setting."""
    return {one.variable for one in SETTINGS.values()}


def clear_environment() -> None:
    """Take every setting out of this process's environment, and so out of its children's; name no server and few partitions."""
    settings = setting_names()
    for name in list(os.environ):
        if name in settings or name.startswith(FOREIGN_PREFIXES):
            del os.environ[name]
    os.environ["REDIS_URL"] = NO_SERVER_URL
    os.environ["PARTITIONS"] = str(PARTITIONS)
