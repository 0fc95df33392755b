"""TLS: workers and producers verify the server's identity unless verification is switched off.

The embedded server has no TLS, so these tests run on Debian's redis-server.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import kombu
import pytest

from celery_partitions.producer.bulk import SendInterrupted
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.support.certificates import Authority
from tests.support.server import RedisServer
from tests.support.wait import wait_until

MakeLive = Callable[..., LiveGroup]


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


def start(server_factory: Callable[..., RedisServer], config: dict[str, str]) -> RedisServer:
    try:
        return server_factory(config=config)
    except RuntimeError:
        pytest.skip("this server is built without TLS")


@pytest.fixture
def server(server_factory: Callable[..., RedisServer], authority: Authority) -> RedisServer:
    """A server with a certificate of the test authority for its own address."""
    return start(server_factory, authority.sign("IP:127.0.0.1"))


def works(live: LiveGroup) -> None:
    """Check that our producer, Celery's producer, a worker and a reader work through TLS."""
    live.start_workers(1)
    live.send(record, [Step("key", 1)])
    live.send_task("record", {"key": "key", "number": 2})
    wait_until(lambda: live.numbers_of(record, "key") == [1, 2])


def refused(live: LiveGroup) -> None:
    """Check that nothing is sent, and that a worker logs the reason and processes nothing."""
    with pytest.raises(SendInterrupted, match="CERTIFICATE_VERIFY_FAILED"):
        live.send(record, [Step("key", 1)])
    options = {"max_retries": 1, "interval_start": 0, "interval_max": 0}
    with pytest.raises(kombu.exceptions.OperationalError, match="CERTIFICATE_VERIFY_FAILED"):
        live.app.send_task("plain", args=[1], ignore_result=True, retry_policy=options)
    worker = live.start_worker()
    wait_until(lambda: "CERTIFICATE_VERIFY_FAILED" in worker.log(), timeout=60, message="the worker does not log the reason")
    assert not worker.is_ready()


def test_with_the_authoritys_certificate_everything_works(server: RedisServer, authority: Authority, make_live: MakeLive) -> None:
    works(make_live(server.url(), PARTITIONS_REDIS_TLS_CA_FILE=authority.file))


def test_an_unknown_authority_is_refused(server: RedisServer, make_live: MakeLive) -> None:
    refused(make_live(server.url()))
    with server.client() as client:
        assert client.keys() == []


def test_a_certificate_for_another_address_is_refused(
    server_factory: Callable[..., RedisServer], authority: Authority, make_live: MakeLive
) -> None:
    server = start(server_factory, authority.sign("DNS:redis.example.com"))
    refused(make_live(server.url(), PARTITIONS_REDIS_TLS_CA_FILE=authority.file))


def test_verification_can_be_switched_off(server: RedisServer, make_live: MakeLive) -> None:
    works(make_live(server.url(), PARTITIONS_REDIS_TLS_VERIFY=0))
