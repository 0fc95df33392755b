"""Fixtures for a server, its clients and workers. No test reaches a Redis server that was not started for it.

`TEST_REDIS_SERVER` names the server binary to start (else the embedded one). `TEST_REDIS_URL` names a server
that already runs; `redis_url` and everything that uses it then go there, and its database is *flushed*.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck
from hypothesis import settings as hypothesis_settings
from redis.backoff import NoBackoff
from redis.retry import Retry

from celery_partitions_config.settings import Settings
from tests.support.environment import PARTITIONS, clear_environment
from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.worker import WorkerProcess

# Our tests do not assert times: examples have no deadline, and a busy machine may make them slowly.
hypothesis_settings.register_profile("no-deadline", deadline=None, suppress_health_check=[HealthCheck.too_slow])
hypothesis_settings.load_profile("no-deadline")

#: `pytester` runs a user's tests, which use our fixtures.
pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent
#: A test that uses one of these fixtures is marked `server`.
SERVER_FIXTURES = {"redis_server", "redis_url", "server_factory", "start_worker", "server", "shared", "live"}
#: Files that take longer than twenty seconds, and so are started first. If one started last, the other processors would wait for it.
LONG_FILES = (
    *("adoption/test_readme.py", "adoption/test_layouts.py", "simulation/test_schedules.py", "faults/test_poison_messages.py"),
    *("wallaroo/test_runs.py", "results/test_faults.py", "faults/test_servers_with_problems.py", "dashboard/test_browser_keys.py"),
    *("faults/test_calls_in_flight.py", "pipeline/test_examples.py"),
)
#: Tests in these folders build, install, type-check, or run thousands of schedules or a browser.
SLOW_FOLDERS = {"adoption", "chaos", "dashboard", "deployment", "docs", "interop", "simulation", "typing"}
#: The limit for `pytest -n auto`: each process starts its own servers and workers.
MAX_PROCESSES = 8

_numbers = count()


def pytest_configure() -> None:
    """Clear the developer's settings before anything of ours is imported."""
    clear_environment()


def pytest_xdist_auto_num_workers() -> int:
    """Three processes for two processors, because tests wait for half of their time: for leases, retries and timeouts.

    A server in `TEST_REDIS_URL` cannot be shared, because each test empties it.
    """
    return 0 if "TEST_REDIS_URL" in os.environ else min((os.cpu_count() or 1) * 2, MAX_PROCESSES)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # pytest-randomly has already shuffled all files. Sorting keeps the order of the others.
    place = {TESTS / name: number for number, name in enumerate(LONG_FILES)}
    items.sort(key=lambda item: place.get(item.path, len(place)))
    for item in items:
        if SERVER_FIXTURES & set(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.server)
        if item.path.relative_to(TESTS).parts[0] in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[RedisServer]:
    """One server for the whole run. A test that stops or configures it takes `server_factory` instead."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def redis_url(request: pytest.FixtureRequest) -> str:
    """The address of an empty database."""
    url = os.environ.get("TEST_REDIS_URL") or request.getfixturevalue("redis_server").url()
    with redis.Redis.from_url(url) as client:
        client.flushdb()
    return str(url)


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """A client of the empty database, without retries."""
    with redis.Redis.from_url(redis_url, retry=Retry(NoBackoff(), 0)) as client:
        yield client


@pytest.fixture
def settings(redis_url: str) -> Settings:
    """The settings of the tests' processes, on the empty database."""
    return Settings(redis_url=redis_url, partitions=PARTITIONS)


@pytest.fixture
def key() -> str:
    """A key that no other test uses."""
    return f"key-{next(_numbers)}"


@pytest.fixture
def server_factory() -> Iterator[Callable[..., RedisServer]]:
    """Start servers for one test: `server_factory(appendonly=True)`, with the options of `RedisServer`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(RedisServer(**options))


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[Proxy]:
    """A proxy for `redis_server`. Also take `redis_url` or `client`, which empty the database. A fault that never happens fails the test."""
    with Proxy(redis_server.host, redis_server.port) as proxy:
        yield proxy
        proxy.check_faults()


@pytest.fixture
def start_worker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., WorkerProcess]]:
    """Start workers: `start_worker(module, "-Q", "partition.1", PARTITIONS_LEASE_SECONDS=1)`; all are killed at the end.

    They use `redis_url` unless `REDIS_URL` is given. A worker is not ready when this returns: `start_worker(…).wait_ready()`.
    The ends of their logs are shown when the test fails.
    """
    workers: list[WorkerProcess] = []
    with ExitStack() as stack:

        def start(module: str, *arguments: str, **env: Any) -> WorkerProcess:
            if "REDIS_URL" not in env:
                env["REDIS_URL"] = request.getfixturevalue("redis_url")
            text = {name: str(value) for name, value in env.items()}
            worker = WorkerProcess(module, *arguments, directory=tmp_path, env=text)
            workers.append(stack.enter_context(worker))
            return worker

        yield start
    for worker in workers:
        print(f"--- {worker.log_path.name}\n{worker.log_tail()}")
