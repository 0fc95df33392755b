"""`celery.contrib.testing.worker.start_worker`, which many projects' tests use, serves computations."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from celery import Celery, signals
from celery._state import _set_task_join_will_block
from celery.contrib.testing.worker import start_worker

from celery_partitions import install
from celery_partitions.runtime.registry import installation_of, remove_installation
from celery_partitions.worker.bootstep import WorkerRefused
from celery_partitions_config.settings import Settings
from tests.fundamentals.application import Step, record
from tests.support.apps import close_app
from tests.support.wait import wait_until


@contextmanager
def no_logging_setup() -> Iterator[None]:
    """Celery leaves the process's logging alone while somebody listens to this signal. Other tests read logs."""

    def leave(**_: object) -> None: ...

    signals.setup_logging.connect(leave)
    try:
        yield
    finally:
        signals.setup_logging.disconnect(leave)


@pytest.fixture
def app(redis_url: str) -> Iterator[Celery]:
    app = install(Celery("shop", broker=redis_url, backend=redis_url, set_as_current=False), Settings(partitions=2))
    installation = installation_of(app)
    assert installation is not None
    with no_logging_setup():
        yield app
    remove_installation(installation)
    installation.group.client.close()
    close_app(app)
    _set_task_join_will_block(False)  # the solo pool set it, for the whole process


@pytest.mark.parametrize("queues", [["partition"], ["celery", "partition"], ["partition.0", "partition.1"]])
def test_it_serves_the_partitions_given_at_its_start(app: Celery, queues: list[str]) -> None:
    with start_worker(app, queues=queues, perform_ping_check=False):
        record.send_many([Step("a", 1), Step("b", 2), Step("a", 3)])
        wait_until(lambda: (state := record.state("a")) is not None and state.numbers == [1, 3], timeout=60)


def test_without_a_partitions_queue_it_serves_none(app: Celery) -> None:
    record.delay(Step("a", 1))
    with start_worker(app, queues=["celery"], perform_ping_check=False) as worker:
        assert "partitions" not in worker.stats()
    assert record.state("a") is None


def test_more_than_one_at_a_time_is_refused(app: Celery) -> None:
    with pytest.raises(WorkerRefused, match="one message at a time"), start_worker(app, queues=["partition"], concurrency=2, perform_ping_check=False):
        pass
