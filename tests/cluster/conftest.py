"""One cluster of three primaries, a control server and two workers for the tests of this folder. Each test uses its own keys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
from celery import Celery
from click.testing import CliRunner, Result

from celery_partitions.cli.commands import partitions
from tests.fundamentals.live import LiveGroup
from tests.producer.conftest import MakeApp, make_app
from tests.support.cluster import RedisCluster
from tests.support.server import RedisServer

__all__ = ["make_app"]

ENV = {
    "PARTITIONS": 6,
    "PARTITIONS_LEASE_SECONDS": 10,
    "PARTITIONS_RETRY_ATTEMPTS": 0,
    "PARTITIONS_RETRY_EXHAUSTED": "dead_letter",
}


@pytest.fixture(scope="package")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster() as cluster:
        yield cluster


@pytest.fixture(scope="package")
def shared(cluster: RedisCluster, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveGroup]:
    with (
        RedisServer() as control,
        LiveGroup(control.url(), tmp_path_factory.mktemp("shared"), **ENV, PARTITIONS_URL=cluster.url()) as live,
    ):
        live.start_workers(2)
        yield live
        live.print_logs()


@pytest.fixture
def app(make_app: MakeApp, shared: LiveGroup) -> Celery:
    """A producer's app. The computations' handles use it."""
    return make_app(shared.settings.redis_url, shared.settings)


@pytest.fixture
def run(app: Celery) -> Callable[..., Result]:
    """Run a command. Any exception but an exit code fails the test."""
    return invoke(app)


def invoke(app: Celery) -> Callable[..., Result]:
    """A function that runs a command for an app."""

    def run(*words: str, stdin: str | None = None) -> Result:
        result = CliRunner().invoke(partitions, words, input=stdin, obj=SimpleNamespace(app=app))
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run
