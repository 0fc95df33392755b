"""`adelay`, `asend_many`, `astate`, `astates`: the same messages and answers, and the event loop is never blocked."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any

import msgspec
import pytest
import redis
from celery import Celery, signals
from kombu.exceptions import OperationalError

from celery_partitions import MessageError, QueueFull, SendInterrupted, SetupError, aclose
from celery_partitions.producer.bulk import CHUNK_MESSAGES
from celery_partitions.runtime.registry import current_installation
from celery_partitions.store.programs import ASYNC_CONNECTIONS
from celery_partitions.store.states import StateReader
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import Last, Trade, envelopes, note, partition, queues, update
from tests.support.coroutines import run_apart
from tests.support.proxy import Proxy

AAPL = f"partition.{partition('AAPL')}"
NOTED = f"partition.{partition('k')}"


def run(doing: Coroutine[Any, Any, Any]) -> Any:
    """Run in a new event loop, which leaves no connection open."""

    async def run() -> Any:
        try:
            return await doing
        finally:
            await aclose()

    return run_apart(run())


def put_state(client: redis.Redis, key: str, price: float) -> None:
    group = current_installation().group
    state = Last()
    state.price = price
    reader: StateReader = group.state_reader
    client.hset(reader._hash(update.name, key), key, group.codec.dump(update.computation, key, state))


@pytest.fixture
def distant(make_app: MakeApp, redis_url: str, proxy: Proxy) -> Proxy:
    url = proxy.url(int(redis_url.rpartition("/")[2]))
    make_app(url, Settings(redis_url=url, partitions=4, redis_timeout_seconds=2))
    return proxy


def comparable(client: redis.Redis, queue: str) -> list[dict[str, Any]]:
    """The messages, without the fields that differ between any two."""
    found = envelopes(client, queue)
    for envelope in found:
        for name in ("id", "root_id", "sent_at"):
            del envelope["headers"][name]
        for name in ("correlation_id", "delivery_tag", "reply_to"):
            envelope["properties"].pop(name, None)
    return found


def test_the_messages_are_those_of_delay_and_send_many(app: Celery, client: redis.Redis) -> None:
    trade = Trade("AAPL", 1.5)
    result = update.delay(trade, message_id="a")
    update.send_many([trade])

    async def send() -> Any:
        sent = await update.adelay(trade, message_id="a")
        assert await update.asend_many([trade]) == 1
        return sent

    sent = run(send())
    assert (sent.id, type(sent)) == (result.id, type(result))
    first, second, third, fourth = comparable(client, AAPL)
    assert first == third
    assert second == fourth


@pytest.mark.parametrize("how", ["a dict", "by keyword", "with a receiver"])
def test_every_way_to_call_delay(app: Celery, client: redis.Redis, how: str) -> None:
    def receiver(**_: Any) -> None: ...

    if how == "with a receiver":  # then Celery's own code publishes
        signals.before_task_publish.connect(receiver)
    try:
        run(update.adelay(trade={"symbol": "AAPL", "price": 1}) if how == "by keyword" else update.adelay({"symbol": "AAPL", "price": 1}))
    finally:
        signals.before_task_publish.disconnect(receiver)
    assert queues(client) == {AAPL: 1}


def test_errors_are_those_of_delay(make_app: MakeApp, app: Celery, settings: Settings, client: redis.Redis) -> None:
    with pytest.raises(MessageError, match="symbol"):
        run(update.adelay({"price": 1}))
    with pytest.raises(MessageError, match="exactly one message"):
        run(update.adelay())
    app.conf.task_always_eager = True
    with pytest.raises(SetupError, match="task_always_eager"):
        run(update.adelay(Trade("AAPL", 1)))
    with pytest.raises(SetupError, match="task_always_eager"):
        run(update.asend_many([Trade("AAPL", 1)]))
    make_app(settings.redis_url, Settings(partitions=4, queue_max_length=1))
    run(update.adelay(Trade("AAPL", 1)))
    with pytest.raises(QueueFull):
        run(update.adelay(Trade("AAPL", 1)))
    make_app(settings.redis_url, Settings(partitions=5))
    for doing in (update.adelay(Trade("AAPL", 1)), update.asend_many([Trade("AAPL", 1)]), update.astate("AAPL")):
        with pytest.raises(SetupError, match="PARTITIONS=5"):
            run(doing)
    assert queues(client) == {AAPL: 1}


def test_states(app: Celery, client: redis.Redis) -> None:
    put_state(client, "AAPL", 3.5)
    put_state(client, "MSFT", 4.5)

    async def read() -> None:
        found = await update.astate("AAPL")
        assert found is not None
        assert found.price == 3.5
        assert await update.astate("none") is None
        assert {key: state.price for key, state in (await update.astates(["AAPL", "none", "MSFT"])).items()} == {"AAPL": 3.5, "MSFT": 4.5}
        with pytest.raises(TypeError, match="several keys"):
            await update.astates("AAPL")

    run(read())


def test_the_event_loop_continues_while_redis_is_silent(distant: Proxy, client: redis.Redis) -> None:
    async def watch() -> list[bool]:
        await update.adelay(Trade("AAPL", 1))
        distant.freeze()
        doing = [asyncio.create_task(one) for one in (update.adelay(Trade("AAPL", 2)), update.asend_many([Trade("AAPL", 3)]), update.astate("AAPL"))]
        for _ in range(10):
            await asyncio.sleep(0)
        waits = [not task.done() for task in doing]
        distant.thaw()
        await asyncio.gather(*doing)
        return waits

    assert run(watch()) == [True] * 3
    assert queues(client) == {AAPL: 3}


def test_many_at_once_use_few_connections(distant: Proxy, client: redis.Redis) -> None:
    async def send() -> None:
        await asyncio.gather(*(update.adelay(Trade("AAPL", number)) for number in range(200)))
        assert distant.connection_count <= ASYNC_CONNECTIONS

    run(send())
    assert queues(client) == {AAPL: 200}


async def notes(count: int) -> AsyncIterator[dict[str, Any]]:
    for number in range(count):
        yield {"key": "k", "number": number}


def test_an_async_iterable_in_order_and_in_chunks(app: Celery, client: redis.Redis) -> None:
    count = 2 * CHUNK_MESSAGES + 7
    assert run(note.asend_many(notes(count))) == count
    bodies = [base64.b64decode(envelope["body"]) for envelope in envelopes(client, NOTED)]
    assert [msgspec.json.decode(body)[0][0]["number"] for body in bodies] == list(range(count))


def test_it_waits_for_room_in_a_full_queue_without_blocking(make_app: MakeApp, settings: Settings, client: redis.Redis) -> None:
    make_app(settings.redis_url, Settings(partitions=4, queue_max_length=2))

    async def send() -> int:
        sending = asyncio.create_task(note.asend_many(notes(4)))
        while client.llen(NOTED) < 2:
            await asyncio.sleep(0.01)
        client.delete(NOTED)
        return await sending

    assert run(send()) == 4
    with pytest.raises(SendInterrupted) as caught:
        run(note.asend_many(notes(4), when_full="raise"))
    assert isinstance(caught.value.__cause__, QueueFull)


def test_a_lost_reply_is_reported_as_by_send_many(distant: Proxy, client: redis.Redis) -> None:
    distant.cut_before_reply(b"LPUSH")
    with pytest.raises(SendInterrupted) as caught:
        run(note.asend_many(notes(3)))
    assert (caught.value.sent, len(caught.value.unknown), caught.value.refused) == (0, 3, [])
    distant.cut_before_reply(b"LPUSH")
    with pytest.raises(OperationalError, match="may or may not be in its queue"):
        run(update.adelay(Trade("AAPL", 1)))
    assert queues(client) == {NOTED: 3, AAPL: 1}


def test_a_server_that_cannot_be_reached(make_app: MakeApp) -> None:
    make_app("redis://127.0.0.1:1/0", Settings(partitions=4), task_publish_retry_policy={"max_retries": 2, "interval_start": 0, "interval_step": 0})
    with pytest.raises(OperationalError):
        run(update.adelay(Trade("AAPL", 1)))
    with pytest.raises(SendInterrupted):
        run(update.asend_many([Trade("AAPL", 1)]))
    with pytest.raises(redis.ConnectionError):
        run(update.astate("AAPL"))


def test_a_cancelled_task_sends_what_it_has_taken(app: Celery, client: redis.Redis) -> None:
    async def endless() -> AsyncIterator[dict[str, Any]]:
        yield {"key": "k", "number": 0}
        yield {"key": "k", "number": 1}
        stuck.set()
        await asyncio.Event().wait()

    stuck = asyncio.Event()

    async def send() -> None:
        sending = asyncio.create_task(note.asend_many(endless()))
        await stuck.wait()
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending

    run(send())
    assert queues(client) == {NOTED: 2}


def test_a_cancelled_adelay_leaves_no_reply_for_the_next(distant: Proxy, client: redis.Redis) -> None:
    async def send() -> Any:
        await update.adelay(Trade("AAPL", 1))
        distant.freeze()
        sending = asyncio.create_task(update.adelay(Trade("AAPL", 2)))
        for _ in range(50):
            await asyncio.sleep(0)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        distant.thaw()
        return await update.astate("AAPL")

    assert run(send()) is None


def test_each_event_loop_has_its_own_connections(app: Celery, client: redis.Redis) -> None:
    for number in range(3):
        run(update.adelay(Trade("AAPL", number)))
    assert queues(client) == {AAPL: 3}


def test_an_iterable_that_raises(app: Celery, client: redis.Redis) -> None:
    def broken() -> Iterator[dict[str, Any]]:
        yield {"key": "k"}
        raise LookupError("broken")

    with pytest.raises(LookupError) as caught:
        run(note.asend_many(broken()))
    assert caught.value.__notes__ == ["send_many had sent 1 message before this error"]
    assert queues(client) == {NOTED: 1}
