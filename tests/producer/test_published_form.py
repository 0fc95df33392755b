"""With any priority, serializer and compression in the app's configuration or the call, a computation's message is in the list that workers read, in a form they can read."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import redis
from celery import Celery, group

from celery_partitions.model.messages import open_envelope
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import Trade, envelopes, partition, queues, raws, update

AAPL = f"partition.{partition('AAPL')}"
MESSAGE = {"symbol": "AAPL", "price": 1.0}

Send = Callable[..., Any]

#: All ways to send a message. Each sends it to the queue of its key.
SENDS: dict[str, Send] = {
    "delay": lambda app: update.delay(Trade("AAPL", 1.0)),
    "apply_async": lambda app, **options: update.apply_async((Trade("AAPL", 1.0),), **options),
    "signature": lambda app, **options: update.s(MESSAGE).apply_async(**options),
    "group": lambda app, **options: group(update.s(MESSAGE), app=app).apply_async(**options),
    "send_task": lambda app, **options: app.send_task(update.name, args=[MESSAGE], **options),
    "send_task to its queue": lambda app, **options: app.send_task(update.name, args=[MESSAGE], queue=AAPL, **options),
    "send_task of what is not declared here": lambda app, **options: app.send_task("x", args=[MESSAGE], queue=AAPL, **options),
}
WITH_OPTIONS = [name for name in SENDS if name != "delay"]

#: From kombu's documentation of priorities on Redis.
PRIORITIES = {"priority_steps": list(range(10)), "sep": ":", "queue_order_strategy": "priority"}

CONFIGURED: dict[str, dict[str, Any]] = {
    "priority": {"broker_transport_options": PRIORITIES, "task_default_priority": 5},
    "priority in kombu's own steps": {"task_default_priority": 5},
    "pickle": {"task_serializer": "pickle"},
    "annotated": {"task_annotations": {"*": {"serializer": "pickle", "priority": 7, "compression": "bzip2"}}},
    "bzip2": {"task_compression": "bzip2"},
    "gzip": {"task_compression": "gzip"},
    "all": {
        "broker_transport_options": PRIORITIES,
        "task_default_priority": 9,
        "task_serializer": "yaml",
        "task_compression": "lzma",
    },
}


def is_read(client: redis.Redis) -> None:
    """Check that there is one message in the list that workers read, and that it can be decoded."""
    assert queues(client) == {AAPL: 1}
    (raw,) = raws(client, AAPL)
    assert b'"AAPL"' in open_envelope(raw).body
    (envelope,) = envelopes(client, AAPL)
    assert (envelope["content-type"], envelope["properties"]["priority"]) == ("application/json", 0)


@pytest.mark.parametrize("send", SENDS)
@pytest.mark.parametrize("configured", CONFIGURED)
def test_no_configuration_of_the_app_hides_a_message_from_workers(
    make_app: MakeApp, settings: Settings, client: redis.Redis, configured: str, send: str
) -> None:
    SENDS[send](make_app(settings.redis_url, settings, **CONFIGURED[configured]))
    is_read(client)


@pytest.mark.parametrize("send", WITH_OPTIONS)
@pytest.mark.parametrize("options", [{"priority": 5}, {"serializer": "pickle"}, {"compression": "bzip2"}, {"compression": "zlib"}])
def test_no_option_of_a_call_hides_a_message_from_workers(
    make_app: MakeApp, settings: Settings, client: redis.Redis, options: dict[str, Any], send: str
) -> None:
    SENDS[send](make_app(settings.redis_url, settings, broker_transport_options=PRIORITIES), **options)
    is_read(client)


@pytest.mark.parametrize(("asked", "packed"), [(None, None), ("gzip", "application/x-gzip"), ("bzip2", "application/x-gzip")])
def test_a_message_is_compressed_on_request(
    make_app: MakeApp, settings: Settings, client: redis.Redis, asked: str | None, packed: str | None
) -> None:
    make_app(settings.redis_url, settings, task_compression=asked)
    update.delay(MESSAGE)
    (envelope,) = envelopes(client, AAPL)
    assert envelope["headers"].get("compression") == packed


def test_other_tasks_keep_their_priority_serializer_and_compression(
    make_app: MakeApp, settings: Settings, client: redis.Redis
) -> None:
    app: Celery = make_app(settings.redis_url, settings, **CONFIGURED["all"])
    app.send_task("report", serializer="pickle", compression="bzip2", priority=3)
    app.send_task("report", serializer="pickle", compression="bzip2", priority=3, queue="reports")
    assert queues(client) == {"celery:3": 1, "reports:3": 1}
    (envelope,) = envelopes(client, "reports:3")
    assert envelope["content-type"] == "application/x-python-serialize"
    assert envelope["headers"]["compression"] == "application/x-bz2"
