"""Fixtures of the server-side tests: an app, its group filled by hand, and Flower."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis
from celery import Celery

from celery_partitions_config.settings import Settings
from tests.dashboard.group import Filled
from tests.dashboard.served import Served
from tests.producer.conftest import MakeApp, make_app

SIGNING_KEY = b"a key of the tests, long enough"


@pytest.fixture
def shop(make_app: MakeApp, redis_url: str) -> Celery:
    """The tests' app, with signed states."""
    return make_app(redis_url, Settings(redis_url=redis_url, state_signing_keys=(SIGNING_KEY,)))


@pytest.fixture
def filled(shop: Celery, client: redis.Redis) -> Filled:
    return Filled(shop, client)


@pytest.fixture
def served(shop: Celery) -> Iterator[Served]:
    """Flower for that app, with a login."""
    with Served(shop) as served:
        yield served


__all__ = ["filled", "make_app", "served", "shop"]
