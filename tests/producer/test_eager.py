"""`task_always_eager`: a computation cannot run in its producer, so it is refused. Regression: the message was silently lost."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery, chain, group

from celery_partitions import SetupError
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import Trade, queues, update

MESSAGE = {"symbol": "AAPL", "price": 1.0}

SENDS: dict[str, Callable[[], Any]] = {
    "delay": lambda: update.delay(Trade("AAPL", 1.0)),
    "apply_async": lambda: update.apply_async((MESSAGE,)),
    "send_many": lambda: update.send_many([MESSAGE]),
    "signature": lambda: update.s(MESSAGE).delay(),
    "chain": lambda: chain(update.si(MESSAGE), update.si(MESSAGE), app=update.task.app)(),
    "group": lambda: group(update.si(MESSAGE), app=update.task.app)(),
    "apply": lambda: update.task.apply((MESSAGE,)),
}


@pytest.fixture(params=[True, False], ids=["propagates", "does not"])
def eager(make_app: MakeApp, settings: Settings, request: pytest.FixtureRequest) -> Celery:
    return make_app(settings.redis_url, settings, task_always_eager=True, task_eager_propagates=request.param)


@pytest.mark.parametrize("send", SENDS)
def test_a_computation_of_an_eager_app_is_refused_with_what_to_use_in_tests(
    eager: Celery, client: redis.Redis, send: str
) -> None:
    with pytest.raises(SetupError, match=r"task_always_eager.*celery_partitions\.testing\.harness"):
        SENDS[send]()
    assert queues(client) == {}


def test_other_tasks_of_an_eager_app_run(eager: Celery, client: redis.Redis) -> None:
    @eager.task(name="ours", shared=False)
    def ours(number: int) -> int:
        return number + 1

    assert ours.delay(1).get() == 2
    assert queues(client) == {}
