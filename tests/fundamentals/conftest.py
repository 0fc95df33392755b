"""One server and two workers for most of the promises. Each test uses its own keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.fundamentals.live import LiveGroup, live_groups
from tests.support.server import RedisServer

#: One retry, soon: a failing message becomes a dead letter during the test, and its key continues.
ENV = {
    "PARTITIONS": 4,
    "PARTITIONS_LEASE_SECONDS": 10,
    "PARTITIONS_RETRY_ATTEMPTS": 1,
    "PARTITIONS_RETRY_BACKOFF_SECONDS": 0.3,
    "PARTITIONS_RETRY_EXHAUSTED": "dead_letter",
}


@pytest.fixture(scope="package")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    """Two workers that share four partitions, for every test of this folder that does not disturb other tests."""
    with RedisServer() as server, LiveGroup(server.url(), tmp_path_factory.mktemp("shared"), **ENV) as live:
        live.start_workers(2)
        yield live
        live.print_logs()


@pytest.fixture
def make_live(redis_url: str, tmp_path: Path) -> Iterator[Callable[..., LiveGroup]]:
    """Create groups whose workers the test itself starts and stops."""
    with live_groups(tmp_path, **ENV) as make:
        yield partial(make, redis_url)
