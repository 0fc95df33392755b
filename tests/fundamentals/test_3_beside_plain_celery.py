"""A plain Celery task on a partition's queue: run by Celery, in its turn."""

from __future__ import annotations

import pytest

from celery_partitions import partition_of
from tests.fundamentals.application import WITNESSED, Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.applications.plain_tasks import PLAIN_RAN
from tests.support.wait import wait_until


def test_an_ordinary_task_runs_in_its_turn(shared: LiveGroup, key: str) -> None:
    queue = f"partition.{partition_of(key, 4)}"
    shared.client.delete(WITNESSED)
    shared.send(witness, [Deed(key, 1)])
    shared.send_task("ordinary witness", 2, queue=queue)
    shared.send(witness, [Deed(key, 3)])
    wait_until(lambda: len(shared.witnessed()) == 3)
    assert [line.partition(":")[2] for line in shared.witnessed()] == ["1", "2", "3"]


@pytest.mark.parametrize("queue", ["partition.1", "partition"])
def test_an_ordinary_task_that_asks_for_it_is_put_back_into_its_queue(shared: LiveGroup, key: str, queue: str) -> None:
    shared.client.delete(WITNESSED)
    shared.send_task("come again", 2, f"counter-{key}", queue=queue)
    wait_until(lambda: len(shared.witnessed()) == 1)
    assert shared.client.get(f"counter-{key}") == b"3"
    shared.wait_drained()


def test_an_ordinary_task_has_its_result(shared: LiveGroup) -> None:
    result = shared.app.send_task("plain", args=[7], queue="partition.0")
    assert result.get(timeout=20) == 7
    assert shared.client.lrange(PLAIN_RAN, -1, -1) == [b"7"]
