"""`reply=True`: a message is a request to its key. The commit that writes its state also answers it, in order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from celery.exceptions import TaskRevokedError
from celery.result import AsyncResult

from celery_partitions import MessageError, PartitionError, aclose, partition_of
from celery_partitions.admin.pause import pause, resume
from celery_partitions.model.errors import ReplyError
from tests.results.application import Refused, add, close_up, held, quiet, refuse, tried
from tests.results.conftest import Client
from tests.support.wait import wait_until

PATIENCE = 60


def test_the_value_is_returned(here: Client, key: str) -> None:
    assert add.delay({"key": key, "number": 2}).get(timeout=PATIENCE) == {"key": key, "number": 2}
    assert add.delay({"key": key, "number": 3}).get(timeout=PATIENCE) == {"key": key, "number": 5}


def test_answers_are_in_the_order_of_the_key(here: Client, key: str) -> None:
    results = [add.delay({"key": key, "number": 1}) for _ in range(50)]
    assert [result.get(timeout=PATIENCE)["number"] for result in results] == list(range(1, 51))


def test_a_later_change_of_the_returned_value_is_not_stored(here: Client, key: str) -> None:
    live, partition = here.live, str(partition_of(key, here.live.settings.partitions))
    pause(live.client, live.names, [partition], by="me")  # so that one batch has several of the messages
    results = [close_up.delay({"key": key, "number": number}) for number in range(3)]
    resume(live.client, live.names, [partition], by="me")
    assert [result.get(timeout=PATIENCE) for result in results] == [[0], [0, 1], [0, 1, 2]]


def test_a_message_can_override_the_declaration(here: Client, key: str) -> None:
    asked = quiet.apply_async([{"key": key, "number": 1}], ignore_result=False)
    assert asked.get(timeout=PATIENCE) == {"key": key, "number": 1}
    silent = add.apply_async([{"key": key, "number": 1}], ignore_result=True)
    undeclared = quiet.delay({"key": key, "number": 1})
    assert quiet.apply_async([{"key": key, "number": 1}], ignore_result=False).get(timeout=PATIENCE)["number"] == 3
    assert add.delay({"key": key, "number": 1}).get(timeout=PATIENCE)["number"] == 2
    assert [here.meta(result.id)["status"] for result in (silent, undeclared)] == ["PENDING", "PENDING"]


async def from_a_loop(message: dict[str, Any]) -> AsyncResult:
    try:
        return await quiet.adelay(message)
    finally:
        await aclose()


@pytest.mark.parametrize(
    "send",
    [
        pytest.param(lambda message: quiet.delay(message), id="delay"),
        pytest.param(lambda message: asyncio.run(from_a_loop(message)), id="adelay"),
        pytest.param(lambda message: quiet.apply_async([message], expires=3600), id="by Celery"),
        pytest.param(lambda message: add.apply_async([message], ignore_result=True), id="declined"),
    ],
)
def test_to_wait_for_an_answer_that_never_comes_is_an_error(here: Client, key: str, send: Callable[[Any], AsyncResult]) -> None:
    result = send({"key": key, "number": 1})
    for wait in (result.get, result.wait):
        with pytest.raises(PartitionError, match="reply=True"):
            wait(timeout=PATIENCE)


def test_a_client_that_knows_only_the_name_is_answered_as_declared(here: Client, key: str) -> None:
    here.app.tasks.unregister("results.add")
    result = here.app.send_task("results.add", args=[{"key": key, "number": 4}])
    assert result.get(timeout=PATIENCE) == {"key": key, "number": 4}


def test_the_stored_result_equals_celerys(here: Client, key: str) -> None:
    ours = add.delay({"key": key, "number": 4})
    stock = here.sig("double", {"key": key, "number": 2}).apply_async()
    assert ours.get(timeout=PATIENCE) == stock.get(timeout=PATIENCE)
    rows = [here.live.client.get(f"celery-task-meta-{one.id}") for one in (ours, stock)]
    shapes = [[(name, type(value)) for name, value in here.app.backend.decode(row).items()] for row in rows]
    assert shapes[0] == shapes[1]
    times = [here.live.client.ttl(f"celery-task-meta-{one.id}") for one in (ours, stock)]
    assert abs(times[0] - times[1]) < 60


def test_an_exception_keeps_its_class(here: Client, key: str) -> None:
    result = refuse.delay({"key": key, "number": -1})
    with pytest.raises(Refused) as caught:
        result.get(timeout=PATIENCE)
    assert (caught.value.key, caught.value.number) == (key, -1)
    assert "in refuse" in result.traceback
    assert refuse.delay({"key": key, "number": 2}).get(timeout=PATIENCE) == {"key": key, "number": 2}


def test_a_retried_message_has_the_state_retry(here: Client, key: str) -> None:
    received = here.listen(f"{key}-tried")
    result = tried.apply_async([{"key": key, "number": 7}], task_id=f"{key}-tried")
    assert result.get(timeout=PATIENCE) == {"key": key, "number": 7}
    assert [meta["status"] for meta in received(2)] == ["RETRY", "SUCCESS"]


def test_a_parked_key_without_retries_reports_the_failure_and_later_a_success(here: Client, key: str) -> None:
    received = here.listen(f"{key}-held")
    result = held.apply_async([{"key": key, "number": -1}], task_id=f"{key}-held", link=here.sig("double"))
    with pytest.raises(Refused):
        result.get(timeout=PATIENCE)
    here.live.client.set("repaired", 1)
    here.live.group.parked_keys.retry(key, by="a test")
    assert [meta["status"] for meta in received(2)] == ["FAILURE", "SUCCESS"]
    wait_until(lambda: here.ran() == [f"double:{key}:-1"])


def test_a_value_that_is_not_json_fails_its_message(here: Client, key: str) -> None:
    result = close_up.delay({"key": key, "number": 13})
    with pytest.raises(ReplyError, match=r"results\.close up.*object.*can't be encoded as JSON"):
        result.get(timeout=PATIENCE)
    assert close_up.delay({"key": key, "number": 1}).get(timeout=PATIENCE) == [1]


def test_an_invalid_message(here: Client, key: str) -> None:
    result = here.app.send_task("results.add", args=[[1, 2]], queue=here.installation.queue("0"))
    with pytest.raises(MessageError, match="Expected `object`, got `array`"):
        result.get(timeout=PATIENCE)


def test_an_expired_message_is_revoked(here: Client, key: str) -> None:
    result = add.apply_async([{"key": key, "number": 1}], expires=-1)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=PATIENCE)


def test_a_revoked_message_is_reported_as_revoked(here: Client, key: str) -> None:
    here.app.control.revoke(f"{key}-revoked", reply=True, timeout=60, limit=2)
    result = add.apply_async([{"key": key, "number": 1}], task_id=f"{key}-revoked")
    with pytest.raises(TaskRevokedError, match="revoked"):
        result.get(timeout=PATIENCE)


def test_bulk_messages_are_answered_if_their_ids_are_known(here: Client, key: str) -> None:
    add.send_many([{"key": key, "number": 1}, {"key": key, "number": 2}], id_of=lambda one: f"{key}-{one['number']}")
    assert here.app.AsyncResult(f"{key}-2").get(timeout=PATIENCE) == {"key": key, "number": 3}


def test_a_stored_success_is_not_overwritten(here: Client, key: str) -> None:
    """As in Celery, if the same id is used twice."""
    first = add.apply_async([{"key": key, "number": 1}], task_id=f"{key}-twice")
    assert first.get(timeout=PATIENCE)["number"] == 1
    add.apply_async([{"key": key, "number": 1}], task_id=f"{key}-twice")
    assert add.delay({"key": key, "number": 1}).get(timeout=PATIENCE)["number"] == 3
    assert here.meta(f"{key}-twice")["result"]["number"] == 1


def test_a_message_in_a_queue_of_stock_workers_is_sent_on_with_its_id(here: Client, key: str) -> None:
    result = add.apply_async([{"key": key, "number": 5}], queue="celery", link=here.sig("double"))
    assert result.get(timeout=PATIENCE) == {"key": key, "number": 5}
    wait_until(lambda: here.ran() == [f"double:{key}:5"])
    assert partition_of(key, 4) in range(4)
