"""Hand-written messages: a minimal one, as `redis-cli` would push it; Go's protocol 1; kombu's priorities."""

from __future__ import annotations

import base64
import json
from uuid import uuid4

import pytest
from celery import Celery

from celery_partitions import partition_of
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until


def minimal_message(key: str, number: int) -> str:
    """As in the README for `redis-cli LPUSH`: no base64, and only the required fields."""
    return json.dumps(
        {
            "body": json.dumps([[{"key": key, "number": number}], {}, {}]),
            "headers": {"task": "record", "id": str(uuid4())},
            "properties": {"delivery_tag": str(uuid4()), "delivery_info": {"exchange": ""}},
        }
    )


def gocelery_message(task: str, arguments: list[object]) -> str:
    """Source: gocelery's message.go, CeleryMessage and TaskMessage; `Headers` has `omitempty`."""
    name = str(uuid4())
    body = {"id": name, "task": task, "args": arguments, "kwargs": {}, "retries": 0, "eta": None, "expires": None}
    return json.dumps(
        {
            "body": base64.b64encode(json.dumps(body).encode()).decode(),
            "content-type": "application/json",
            "properties": {
                "body_encoding": "base64",
                "correlation_id": str(uuid4()),
                "reply_to": str(uuid4()),
                "delivery_info": {"priority": 0, "routing_key": "celery", "exchange": "celery"},
                "delivery_mode": 2,
                "delivery_tag": str(uuid4()),
            },
            "content-encoding": "utf-8",
        }
    )


@pytest.fixture(params=["the ingress", "its partition"])
def queue(request: pytest.FixtureRequest, key: str) -> str:
    return "partition" if request.param == "the ingress" else f"partition.{partition_of(key, 4)}"


def test_a_minimal_message(live: LiveGroup, queue: str, key: str) -> None:
    for number in range(5):
        live.client.execute_command("LPUSH", queue, minimal_message(key, number))
    wait_until(lambda: live.numbers_of(record, key) == list(range(5)))


def test_the_same_message_twice_is_two_messages(live: LiveGroup, queue: str, key: str) -> None:
    """A producer that retries a publish sends the same bytes again. Each copy is removed from the queue once."""
    live.client.lpush(queue, *[minimal_message(key, 1)] * 3)
    wait_until(lambda: live.numbers_of(record, key) == [1, 1, 1])


def test_gocelery(live: LiveGroup, queue: str, key: str) -> None:
    for number in range(5):
        live.client.lpush(queue, gocelery_message("record", [{"key": key, "number": number}]))
    wait_until(lambda: live.numbers_of(record, key) == list(range(5)))


def test_gocelery_to_a_plain_task(live: LiveGroup) -> None:
    live.client.lpush("partition.0", gocelery_message("plain task witness", [1000]))
    wait_until(lambda: any(line.endswith(":1000") for line in live.witnessed()))


def test_a_celery_app_without_our_code(live: LiveGroup, queue: str, key: str) -> None:
    with Celery("foreign", broker=live.settings.redis_url, set_as_current=False) as foreign:
        for number in range(5):
            foreign.send_task("record", args=[{"key": key, "number": number}], queue=queue)
        foreign.send_task("record", kwargs={"step": {"key": key, "number": 5}}, queue=queue)
    wait_until(lambda: live.numbers_of(record, key) == list(range(6)))


def test_a_compressed_message_of_a_celery_app_without_our_code(live: LiveGroup, queue: str, key: str) -> None:
    with Celery("foreign", broker=live.settings.redis_url, set_as_current=False) as foreign:
        foreign.send_task("record", args=[{"key": key, "number": 1}], queue=queue, compression="gzip")
    wait_until(lambda: live.numbers_of(record, key) == [1])


def test_pickled_messages_are_refused_without_unpickling_them(live: LiveGroup, queue: str, key: str) -> None:
    with Celery("foreign", broker=live.settings.redis_url, set_as_current=False) as foreign:
        message = foreign.send_task("record", args=[{"key": key, "number": 1}], queue=queue, serializer="pickle")
    (dead_letter,) = wait_until(lambda: [x for x in live.dead_letters() if message.id in base64.b64decode(x.raw).decode()])
    assert dead_letter.reason == "content-type"
    live.group.dead_letters.discard([dead_letter])


@pytest.mark.parametrize("priority", [3, 6, 9])
def test_a_priority_under_kombus_default_steps_is_not_forgotten(
    live: LiveGroup, queue: str, key: str, priority: int
) -> None:
    """It is in a separate list, and joins the queue when the worker next reads it: with the next message."""
    with Celery("foreign", broker=live.settings.redis_url, set_as_current=False) as foreign:
        foreign.send_task("record", args=[{"key": key, "number": 1}], queue=queue, priority=priority)
    live.send(record, [Step(key, 2)])
    if queue == "partition":
        live.client.lpush("partition", minimal_message(f"{key}-other", 3))
    wait_until(lambda: sorted(live.numbers_of(record, key)) == [1, 2])
