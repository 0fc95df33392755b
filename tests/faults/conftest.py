"""A group with short leases and small batches, so that a fault can interrupt many steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fundamentals.live import LiveGroup, live_groups
from tests.support.proxy import Proxy
from tests.support.server import RedisServer

#: Many commits, and a lease so short that a test can wait for it.
BRITTLE = {"PARTITIONS_LEASE_SECONDS": 1, "PARTITIONS_BATCH_MESSAGES": 20, "PARTITIONS_REDIS_TIMEOUT_SECONDS": 2, "PARTITIONS_RETRY_EXHAUSTED": "dead_letter"}


@pytest.fixture
def make_live(tmp_path: Path) -> Iterator[Callable[..., LiveGroup]]:
    """Make groups on any server: `make_live(url, PARTITIONS=2)`."""
    with live_groups(tmp_path, **BRITTLE) as make:
        yield make


@pytest.fixture
def live(redis_url: str, make_live: Callable[..., LiveGroup]) -> LiveGroup:
    """A group in the shared server's empty database."""
    return make_live(redis_url)


@pytest.fixture
def own_server(server_factory: Callable[..., RedisServer]) -> RedisServer:
    """A server that a test may stop, kill and pause. It keeps every write that it acknowledged."""
    return server_factory(appendonly=True, appendfsync="always")


@pytest.fixture
def own_proxy(own_server: RedisServer) -> Iterator[Proxy]:
    """A proxy for `own_server`: workers connect through it, the test does not. A fault that never happens fails the test."""
    with Proxy(own_server.host, own_server.port) as proxy:
        yield proxy
        proxy.check_faults()
