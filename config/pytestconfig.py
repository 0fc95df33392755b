"""What pytest loads in every run where this package is installed: the fixtures' names. What they do is `celery_partitions.testing.fixtures`,
imported when a test asks for one: a run that has nothing to do with partitions imports no Celery."""

import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest


def _made_by(name: str) -> Any:
    return getattr(importlib.import_module("celery_partitions.testing.fixtures"), name)


@pytest.fixture
def partition_harness() -> Iterator[Callable[..., Any]]:
    """Makes harnesses (`celery_partitions.testing.harness`, with its options): a pipeline, an application or a computation in memory."""
    yield from _made_by("harnesses")()


@pytest.fixture(scope="session")
def _partition_server() -> Iterator[str]:
    """One embedded server for the run; its URL. A test takes `partition_server`, which empties it."""
    yield from _made_by("server")()


@pytest.fixture
def partition_server(_partition_server: str) -> str:
    """The URL of a real Redis server with an empty database. Skips where there is no server to start."""
    return str(_made_by("emptied")(_partition_server))


@pytest.fixture
def partition_workers(request: pytest.FixtureRequest, partition_server: str, tmp_path: Path) -> Iterator[Callable[..., Any]]:
    """Starts real workers of a module on `partition_server` (`celery_partitions.testing.live.PartitionWorkers`)."""
    yield from _made_by("workers")(partition_server, request.config.rootpath, tmp_path)
