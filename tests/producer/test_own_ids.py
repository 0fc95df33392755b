"""The sender's own id must be a text. Anything else is refused before it is sent, because a worker could only make it a dead letter."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery

from celery_partitions import MessageError
from tests.producer.declared import envelopes, partition, queues, update

AAPL = f"partition.{partition('AAPL')}"
MESSAGE = {"symbol": "AAPL", "price": 1.0}

SENDS: dict[str, Callable[[Any], Any]] = {
    "delay": lambda given: update.delay(MESSAGE, message_id=given),
    "apply_async": lambda given: update.apply_async((MESSAGE,), task_id=given),
    "signature": lambda given: update.s(MESSAGE).apply_async(task_id=given),
    "send_many": lambda given: update.send_many([MESSAGE], id_of=lambda _: given),
}


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("given", [17, 0, uuid.UUID(int=5), b"x", "", "\ud800"], ids=repr)
def test_an_invalid_id_is_refused_and_not_sent(app: Celery, client: redis.Redis, given: object, send: str) -> None:
    with pytest.raises(MessageError, match=r"must be a non-empty str|can't be encoded as JSON") as caught:
        SENDS[send](given)
    assert caught.value.reason == "bad-id"
    assert queues(client) == {}


@pytest.mark.parametrize("send", SENDS)
def test_a_text_becomes_the_messages_id(app: Celery, client: redis.Redis, send: str) -> None:
    SENDS[send]('é "1"')
    assert [envelope["headers"]["id"] for envelope in envelopes(client, AAPL)] == ['é "1"']


def test_with_none_celery_makes_the_id(app: Celery, client: redis.Redis) -> None:
    result = update.delay(MESSAGE, message_id=None)
    assert [envelope["headers"]["id"] for envelope in envelopes(client, AAPL)] == [result.id]
    assert uuid.UUID(result.id)
