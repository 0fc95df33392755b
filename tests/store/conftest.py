"""A group of four partitions. The worker `one` owns partition 2."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease, balance
from celery_partitions.store.names import Names


@pytest.fixture
def names() -> Names:
    return Names("partition")


@pytest.fixture
def lease(client: redis.Redis, names: Names) -> Lease:
    """A lease of partition 2 that outlasts every test."""
    share = balance(client, names, "one", lease_seconds=3600, partitions=4, pins=["2"])
    return Lease("2", share.owned["2"])


@pytest.fixture
def store(client: redis.Redis, names: Names) -> CommitStore:
    return CommitStore(client, names, batch_messages=100, batch_bytes=1_000_000)
