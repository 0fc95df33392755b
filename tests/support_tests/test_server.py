"""The handle of the server. The fault tests rely on these properties."""

from collections.abc import Callable

import pytest
import redis

from tests.support.server import RedisServer

Factory = Callable[..., RedisServer]


def test_data_survive_a_kill_with_appendfsync_always(server_factory: Factory) -> None:
    server = server_factory(appendonly=True, appendfsync="always")
    with server.client() as client:
        client.set("key", "value")
    server.kill()
    server.start()
    with server.client() as client:
        assert client.get("key") == b"value"


def test_data_do_not_survive_a_restart_without_appendonly(server_factory: Factory) -> None:
    server = server_factory()
    with server.client() as client:
        client.set("key", "value")
        server.restart()
        assert client.get("key") is None


def test_a_paused_server_is_silent_and_answers_when_resumed(server_factory: Factory) -> None:
    server = server_factory()
    with server.client(socket_timeout=0.1) as client:
        assert client.ping()
        server.pause()
        with pytest.raises(redis.TimeoutError):
            client.ping()
        server.resume()
    with server.client() as client:
        assert client.ping()


def test_a_paused_server_can_be_stopped(server_factory: Factory) -> None:
    server = server_factory()
    server.pause()
    server.stop()
    assert not server.running


def test_the_database_is_empty_first(client: redis.Redis) -> None:
    assert client.set("left", "over")


def test_the_database_is_empty_second(client: redis.Redis) -> None:
    assert client.dbsize() == 0
    assert client.set("left", "over")
