"""`delay` without Celery's publishing code: the same message, only if nothing needs that code, and never sent twice."""

from __future__ import annotations

import base64
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery, Task, signals
from kombu.exceptions import OperationalError

from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import Trade, envelopes, partition, queues, update
from tests.support.proxy import Proxy
from tests.support.server import RedisServer

AAPL = f"partition.{partition('AAPL')}"
MESSAGE = Trade("AAPL", 1.0)

#: Fields that are random, or a time, in every message.
VARYING_HEADERS = {"id", "root_id", "sent_at"}
VARYING_PROPERTIES = {"correlation_id", "delivery_tag"}


def is_celerys(envelope: dict[str, Any]) -> bool:
    """Whether kombu wrote the message: it gives the delivery its own id."""
    return bool(envelope["properties"]["delivery_tag"] != envelope["headers"]["id"])


@contextmanager
def listening(signal: Any, seen: list[str]) -> Iterator[None]:
    def receive(sender: str, **_: Any) -> None:
        seen.append(sender)

    signal.connect(receive)
    try:
        yield
    finally:
        signal.disconnect(receive)


@pytest.mark.parametrize("options", [{}, {"task_id": "an id"}, {"task_id": 'quotes " and \\ and é'}])
@pytest.mark.parametrize("text", ["AAPL", 'quote " backslash \\ é \x1b'])
def test_every_field_of_the_message_is_celerys(app: Celery, client: redis.Redis, options: dict[str, Any], text: str) -> None:
    message = Trade("AAPL", 1.0) if text == "AAPL" else Trade(text, 1.0)
    queue = f"partition.{partition(message.symbol)}"
    update.apply_async((message,), **options)
    with listening(signals.before_task_publish, []):
        update.apply_async((message,), **options)
    ours, theirs = envelopes(client, queue)
    assert (is_celerys(ours), is_celerys(theirs)) == (False, True)
    assert ours.keys() == theirs.keys()
    # Celery also writes these options of `apply_async` to the properties, where nothing reads them.
    for name in ("argsrepr", "kwargsrepr"):
        assert theirs["properties"].pop(name) == ours["headers"][name]
    assert ours["headers"].keys() == theirs["headers"].keys()
    assert ours["properties"].keys() == theirs["properties"].keys()
    for part, varying in (("headers", VARYING_HEADERS), ("properties", VARYING_PROPERTIES)):
        for name in ours[part].keys() - varying:
            assert ours[part][name] == theirs[part][name], name
    ids = {ours["headers"]["id"], ours["headers"]["root_id"], ours["properties"]["correlation_id"]}
    assert len(ids) == 1
    assert ids == {options.get("task_id", ours["headers"]["id"])}


def test_the_body_is_celerys(app: Celery, client: redis.Redis) -> None:
    update.delay(MESSAGE)
    with listening(signals.before_task_publish, []):
        update.delay(MESSAGE)
    bodies = [msgspec.json.decode(base64.b64decode(one["body"])) for one in envelopes(client, AAPL)]
    assert bodies[0] == bodies[1]


@pytest.mark.parametrize("signal", ["before_task_publish", "after_task_publish"])
def test_signals_are_sent_if_there_is_a_receiver(app: Celery, client: redis.Redis, signal: str) -> None:
    seen: list[str] = []
    with listening(getattr(signals, signal), seen):
        update.delay(MESSAGE)
    assert seen == [update.name]
    update.delay(MESSAGE)
    assert [is_celerys(one) for one in envelopes(client, AAPL)] == [True, False]
    assert seen == [update.name]


#: Configurations that need Celery's own code.
ASKING: dict[str, dict[str, Any]] = {
    "a router of the app": {"task_routes": [{"other": {"queue": "other"}}]},
    "compression": {"task_compression": "gzip"},
    "sent events": {"task_send_sent_event": True},
    "an annotation": {"task_annotations": {"*": {"expires": 60}}},
}


@pytest.mark.parametrize("asking", ASKING)
def test_a_configuration_that_needs_celerys_code_uses_it(
    make_app: MakeApp, settings: Settings, client: redis.Redis, asking: str
) -> None:
    make_app(settings.redis_url, settings, **ASKING[asking])
    update.delay(MESSAGE)
    (envelope,) = envelopes(client, AAPL)
    assert is_celerys(envelope)


def test_a_configuration_that_changes_later_applies_from_then_on(app: Celery, client: redis.Redis) -> None:
    update.delay(MESSAGE)
    app.conf.task_compression = "gzip"
    update.delay(MESSAGE)
    app.conf.task_compression = None
    update.delay(MESSAGE)
    assert [is_celerys(one) for one in envelopes(client, AAPL)] == [False, True, False]


@pytest.mark.parametrize("options", [{"countdown": 60}, {"expires": 60}, {"headers": {"mine": 1}}, {"argsrepr": "hidden"}])
def test_an_option_that_only_celery_supports_uses_its_code(app: Celery, client: redis.Redis, options: dict[str, Any]) -> None:
    update.apply_async((MESSAGE,), **options)
    (envelope,) = envelopes(client, AAPL)
    assert is_celerys(envelope)


def test_a_monitor_that_wraps_celerys_sending_adds_its_headers(
    app: Celery, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    stock: Callable[..., Any] = Task.apply_async

    @functools.wraps(stock)
    def traced(self: Task, *args: Any, **options: Any) -> Any:
        options["headers"] = {**(options.get("headers") or {}), "trace": "1"}
        return stock(self, *args, **options)

    monkeypatch.setattr(Task, "apply_async", traced)
    update.delay(MESSAGE)
    (envelope,) = envelopes(client, AAPL)
    assert envelope["headers"]["trace"] == "1"


def test_a_lost_reply_raises_and_the_message_is_not_sent_again(
    make_app: MakeApp, settings: Settings, client: redis.Redis, proxy: Proxy
) -> None:
    make_app(proxy.url(), Settings(redis_url=proxy.url()))
    fault = proxy.cut_before_reply(b"LPUSH")
    with pytest.raises(OperationalError, match="may or may not be in its queue"):
        update.delay(MESSAGE)
    assert fault.remaining == 0
    assert queues(client) == {AAPL: 1}
    update.delay(MESSAGE)
    assert queues(client) == {AAPL: 2}


def test_a_full_server_raises_what_celery_raises(make_app: MakeApp, server_factory: Callable[..., RedisServer]) -> None:
    server = server_factory()
    app = make_app(server.url(), Settings(redis_url=server.url()))
    update.delay(MESSAGE)
    with server.client() as client:
        client.config_set("maxmemory", "1")
        with pytest.raises(OperationalError, match=f"refused the message for {AAPL}: .*maxmemory.*It was not sent"):
            update.delay(MESSAGE)
        with pytest.raises(OperationalError):
            app.send_task(update.name, [{"symbol": "AAPL", "price": 1.0}])
        assert queues(client) == {AAPL: 1}


def test_an_idle_connection_that_the_server_has_closed_is_opened_again(
    make_app: MakeApp, settings: Settings, client: redis.Redis, proxy: Proxy
) -> None:
    make_app(proxy.url(), Settings(redis_url=proxy.url()))
    update.delay(MESSAGE)
    proxy.cut()
    update.delay(MESSAGE)
    assert queues(client) == {AAPL: 2}


def test_an_unreachable_server_raises_what_celery_raises(
    make_app: MakeApp, server_factory: Callable[..., RedisServer]
) -> None:
    server = server_factory()
    url = server.url()
    make_app(url, Settings(redis_url=url), task_publish_retry_policy={"max_retries": 1, "interval_start": 0, "interval_step": 0.01})
    update.delay(MESSAGE)
    server.stop()
    with pytest.raises(OperationalError):
        update.delay(MESSAGE)
