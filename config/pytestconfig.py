"""Our pytest fixtures. pytest loads this file in every run where the package is installed, so it only declares them.

Their code is in `celery_partitions.testing.fixtures`, which is imported when a test uses one: other runs do not import Celery."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def _made_by(name: str) -> Any:
    return getattr(importlib.import_module("celery_partitions.testing.fixtures"), name)


@pytest.fixture
def partition_harness() -> Iterator[Callable[..., Any]]:
    """A function that makes harnesses (see `celery_partitions.testing.harness`), which run a pipeline, application or computation in
    memory."""
    yield from _made_by("harnesses")()


@pytest.fixture(scope="session")
def _partition_server() -> Iterator[str]:
    """The URL of one embedded server for the whole run. Tests use `partition_server`, which empties it."""
    yield from _made_by("server")()


@pytest.fixture
def partition_server(_partition_server: str) -> str:
    """The URL of a real Redis server with an empty database. Skips the test if no server can be started."""
    return str(_made_by("emptied")(_partition_server))


@pytest.fixture
def partition_workers(request: pytest.FixtureRequest, partition_server: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """A function that starts real workers on `partition_server` (see `celery_partitions.testing.live.PartitionWorkers`)."""
    yield from _made_by("workers")(partition_server, request.config.rootpath, tmp_path)
