"""Celery apps with partitions, created as in a project, and closed after the test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest
import redis
from celery import Celery
from kombu import pools

from celery_partitions import install
from celery_partitions.runtime.registry import _installations, installation_of
from celery_partitions_config.settings import Settings
from tests.support.apps import close_app
from tests.support.proxy import Proxy

MakeApp = Callable[..., Celery]


@pytest.fixture
def make_app() -> Iterator[MakeApp]:
    """`make_app(broker_url or app, settings or None, **configuration)`. The computations' handles use the app created last."""
    with ExitStack() as stack:

        def make(where: str | Celery, settings: Settings | None, **configuration: Any) -> Celery:
            app = Celery("shop", broker=where, set_as_current=False) if isinstance(where, str) else where
            if configuration:
                app.conf.update(configuration)
            stack.callback(forget, app)
            return install(app, settings)

        yield make


def forget(app: Celery) -> None:
    installation = installation_of(app)
    if installation is not None:
        _installations.remove(installation)
        if "group" in vars(installation):
            installation.group.client.close()
    close_app(app)
    pools.reset()  # kombu keeps pools by URL, for all apps of the process


@pytest.fixture
def app(make_app: MakeApp, settings: Settings) -> Celery:
    """A project's own app that uses the empty database."""
    return make_app(settings.redis_url, settings)


@pytest.fixture
def distant(make_app: MakeApp, client: redis.Redis, redis_url: str, proxy: Proxy) -> Proxy:
    """The app in use sends through this proxy."""
    url = proxy.url(int(redis_url.rpartition("/")[2]))
    make_app(url, Settings(redis_url=url))
    return proxy
