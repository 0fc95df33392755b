"""A plain Celery task in a partition's queue: Celery runs it, in queue order."""

from __future__ import annotations

import pytest

from celery_partitions import partition_of
from tests.fundamentals.application import WITNESSED, Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.applications.plain_tasks import PLAIN_RAN
from tests.support.wait import wait_until


def test_a_plain_task_runs_in_queue_order(shared: LiveGroup, key: str) -> None:
    queue = f"partition.{partition_of(key, 4)}"
    shared.client.delete(WITNESSED)
    shared.send(witness, [Deed(key, 1)])
    shared.send_task("plain task witness", 2, queue=queue)
    shared.send(witness, [Deed(key, 3)])
    wait_until(lambda: len(shared.witnessed()) == 3)
    assert [line.partition(":")[2] for line in shared.witnessed()] == ["1", "2", "3"]


@pytest.mark.parametrize("queue", ["partition.1", "partition"])
def test_a_plain_task_that_requeues_itself_returns_to_its_queue(shared: LiveGroup, key: str, queue: str) -> None:
    shared.client.delete(WITNESSED)
    shared.send_task("requeue itself", 2, f"counter-{key}", queue=queue)
    wait_until(lambda: len(shared.witnessed()) == 1)
    assert shared.client.get(f"counter-{key}") == b"3"
    shared.wait_drained()


def test_a_plain_task_has_a_result(shared: LiveGroup) -> None:
    result = shared.app.send_task("plain", args=[7], queue="partition.0")
    assert result.get(timeout=60) == 7
    assert shared.client.lrange(PLAIN_RAN, -1, -1) == [b"7"]
