"""What commits send to other servers: exactly once, in order."""

from __future__ import annotations

from celery.result import AsyncResult

from tests.fundamentals.application import WITNESSED, Sale, record, sell
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.wait import wait_until


def test_to_other_keys_in_order(shared: LiveGroup, key: str) -> None:
    totals = [f"{key}-{number}-total" for number in range(6)]
    shared.send(sell, [Sale(key, number, fails=False, forward_to=total) for number in range(300) for total in totals])
    for total in totals:
        wait_until(lambda total=total: len(shared.numbers_of(sell, total)) == 300, PATIENCE_SECONDS)
        assert shared.numbers_of(sell, total) == list(range(300))
    assert len({shared.group.topology.partition_of(total) for total in totals}) > 1


def test_to_ordinary_tasks_on_the_control_server(shared: LiveGroup, key: str) -> None:
    shared.client.delete(WITNESSED)
    shared.send(sell, [Sale(key, number, fails=False) for number in (7, 8)])
    wait_until(lambda: sorted(line.partition(":")[2] for line in shared.witnessed()) == ["7", "8"], PATIENCE_SECONDS)


def test_what_celery_publishes_comes_through_the_ingress(shared: LiveGroup, key: str) -> None:
    for number in range(20):
        shared.send_task(record.name, {"key": key, "number": number})
    wait_until(lambda: shared.numbers_of(record, key) == list(range(20)), PATIENCE_SECONDS)


def test_messages_that_celery_publishes_to_a_partitions_queue_are_found(shared: LiveGroup, key: str) -> None:
    for number in range(5):
        shared.app.send_task(record.name, args=({"key": key, "number": number},), queue="partition.1")
    wait_until(lambda: shared.numbers_of(record, key) == list(range(5)), PATIENCE_SECONDS)


def test_results(shared: LiveGroup, key: str) -> None:
    result: AsyncResult = shared.app.send_task(record.name, args=({"key": key, "number": 1},), ignore_result=False)
    assert result.get(timeout=PATIENCE_SECONDS) is None
    assert result.successful()


def test_outboxes_are_emptied(shared: LiveGroup) -> None:
    wait_until(lambda: not any(shared.client.exists(shared.names.outbox(str(number))) for number in range(6)), PATIENCE_SECONDS)
