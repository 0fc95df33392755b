"""Each method of the proxy does what its docstring says; without one the traffic is unchanged."""

import gc
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.wait import wait_until


@pytest.fixture
def through(proxy: Proxy, client: redis.Redis) -> Iterator[redis.Redis]:
    """A client without retries that reaches the database of `client` through the proxy."""
    with redis.Redis.from_url(proxy.url(), retry=Retry(NoBackoff(), 0)) as through:
        yield through


def test_forwards(through: redis.Redis, client: redis.Redis) -> None:
    value = b"\r\n" * 1_000_000
    through.set("key", value)
    assert client.get("key") == value
    assert through.get("key") == value
    pipeline = through.pipeline(transaction=False)
    for number in range(10_000):
        pipeline.rpush("list", number)
    assert pipeline.execute() == list(range(1, 10_001))


def test_a_cut_ends_a_blocked_call(proxy: Proxy, through: redis.Redis) -> None:
    raised: list[Exception] = []

    def block() -> None:
        try:
            through.blpop(["nothing"], timeout=0)
        except redis.ConnectionError as error:
            raised.append(error)

    thread = threading.Thread(target=block)
    thread.start()
    wait_until(lambda: proxy.connection_count)
    proxy.cut()
    thread.join()
    assert raised
    assert through.ping()


def test_refused_until_accepted(proxy: Proxy, through: redis.Redis) -> None:
    proxy.refuse()
    with pytest.raises(redis.ConnectionError):
        through.ping()
    proxy.accept()
    assert through.ping()


def test_a_lost_request_was_not_executed(
    proxy: Proxy, through: redis.Redis, client: redis.Redis
) -> None:
    fault = proxy.cut_before_request(b"INCR")
    through.set("before", 1)
    assert fault.fired == 0
    with pytest.raises(redis.ConnectionError):
        through.incr("counter")
    assert fault.fired == 1
    assert client.get("counter") is None
    assert through.incr("counter") == 1


def test_the_request_of_a_lost_reply_was_executed(
    proxy: Proxy, through: redis.Redis, client: redis.Redis
) -> None:
    fault = proxy.cut_before_reply(b"INCR")
    with pytest.raises(redis.ConnectionError):
        through.incr("counter")
    assert fault.fired == 1
    assert client.get("counter") == b"1"
    assert through.incr("counter") == 2


def test_a_fault_within_a_pipeline(proxy: Proxy, through: redis.Redis, client: redis.Redis) -> None:
    proxy.cut_before_request(b"second")
    pipeline = through.pipeline(transaction=False).set("first", 1).set("second", 1).set("third", 1)
    with pytest.raises(redis.ConnectionError):
        pipeline.execute()
    wait_until(lambda: client.exists("first"))
    assert not client.exists("second", "third")


def test_the_reply_of_a_transaction_is_that_of_exec(
    proxy: Proxy, through: redis.Redis, client: redis.Redis
) -> None:
    fault = proxy.cut_before_reply(b"INCR")
    with pytest.raises(redis.ConnectionError):
        through.pipeline().incr("counter").set("other", 1).execute()
    assert fault.fired == 1
    assert client.mget("counter", "other") == [b"1", b"1"]


def test_an_unknown_script_is_not_a_lost_reply(
    proxy: Proxy, through: redis.Redis, client: redis.Redis
) -> None:
    client.script_flush()
    fault = proxy.cut_before_reply(b"EVALSHA")
    script = through.register_script("return redis.call('INCR', KEYS[1])")
    with pytest.raises(redis.ConnectionError):
        script(keys=["counter"])  # NOSCRIPT, SCRIPT LOAD, and the call whose reply is lost
    assert fault.fired == 1
    assert client.get("counter") == b"1"


def test_a_fault_can_happen_more_than_once(proxy: Proxy, through: redis.Redis) -> None:
    fault = proxy.cut_before_reply(b"INCR", times=2)
    for _ in range(2):
        with pytest.raises(redis.ConnectionError):
            through.incr("counter")
    assert through.incr("counter") == 3
    assert fault.fired == 2


def test_frozen_traffic_continues_when_thawed(proxy: Proxy, through: redis.Redis, client: redis.Redis) -> None:
    assert through.ping()
    proxy.freeze()
    thread = threading.Thread(target=through.incr, args=["counter"])
    thread.start()
    thread.join(0.1)
    assert thread.is_alive()
    assert client.get("counter") is None
    proxy.thaw()
    thread.join()
    assert client.get("counter") == b"1"


def test_a_delay_longer_than_the_client_waits(proxy: Proxy) -> None:
    with redis.Redis.from_url(proxy.url(), retry=Retry(NoBackoff(), 0), socket_timeout=0.2) as through:
        assert through.ping()
        proxy.delay_seconds = 60.0
        with pytest.raises(redis.TimeoutError):
            through.ping()
        proxy.delay_seconds = 0.0
        assert through.ping()


def test_a_delay_is_added_to_each_round_trip_not_to_each_command(proxy: Proxy, through: redis.Redis) -> None:
    proxy.delay_seconds = 0.2
    pipeline = through.pipeline(transaction=False)
    for number in range(10_000):  # one after the other: more than half an hour
        pipeline.rpush("list", number)
    assert pipeline.execute() == list(range(1, 10_001))


def test_closes_at_once_if_the_server_is_unreachable() -> None:
    with (
        Proxy("127.0.0.1", 1) as proxy,
        redis.Redis.from_url(proxy.url(), retry=Retry(NoBackoff(), 0)) as through,
        pytest.raises(redis.ConnectionError),
    ):
        through.ping()


def test_closing_drops_open_connections(proxy: Proxy, through: redis.Redis) -> None:
    assert through.ping()
    proxy.close()
    assert proxy.connection_count == 0
    with pytest.raises(redis.ConnectionError):
        through.ping()


def test_no_connection_stays_open_if_it_is_closed_while_clients_connect(redis_server: RedisServer) -> None:
    for _ in range(30):
        with Proxy(redis_server.host, redis_server.port) as proxy, ExitStack() as clients:
            for _ in range(8):
                clients.enter_context(socket.create_connection(("127.0.0.1", proxy.port)))
            proxy.close()
    gc.collect()  # a socket left open warns now, which fails the test: warnings are errors
