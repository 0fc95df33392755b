"""Every form of REDIS_URL that Celery users write reaches its server and database. Nothing is retried silently."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_partitions.model.errors import SetupError
from celery_partitions.store.client import connect
from celery_partitions_config.settings import Settings
from tests.support.proxy import Proxy
from tests.support.sentinel import running_sentinel
from tests.support.server import RedisServer, free_port

Factory = Callable[..., RedisServer]


def where(**settings: Any) -> tuple[int, str | None]:
    """The database and the user that the server reports for a client with these settings."""
    with connect(Settings(**settings)) as client:
        client.set("here", 1)
        info = client.client_info()
        return int(info["db"]), info.get("user")


@pytest.mark.parametrize(("tail", "database"), [("", 0), ("/", 0), ("/0", 0), ("/5", 5), ("?db=5", 5)])
def test_redis_urls(redis_server: RedisServer, tail: str, database: int) -> None:
    assert where(redis_url=f"redis://{redis_server.host}:{redis_server.port}{tail}")[0] == database


def test_a_password_and_a_user_in_the_url(server_factory: Factory) -> None:
    server = server_factory(config={"requirepass": "p@ss"})
    with server.client(password="p@ss") as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">s/ecret", "~*", "&*", "+@all")
    place = f"{server.host}:{server.port}/1"
    assert where(redis_url=f"redis://:p%40ss@{place}") == (1, "default")
    assert where(redis_url=f"redis://shop:s%2Fecret@{place}") == (1, "shop")


@pytest.mark.parametrize("scheme", ["unix", "redis+socket"])
@pytest.mark.parametrize(("tail", "database"), [("", 0), ("?db=3", 3), ("?virtual_host=3", 3)])
def test_socket_urls_in_the_form_of_redis_py_and_of_celery(
    server_factory: Factory, tmp_path: Path, scheme: str, tail: str, database: int
) -> None:
    path = tmp_path / "redis.sock"
    server_factory(config={"unixsocket": str(path)})
    assert where(redis_url=f"{scheme}://{path}{tail}")[0] == database


@pytest.fixture
def sentinel(server_factory: Factory, tmp_path: Path) -> Iterator[str]:
    """`host:port` of a sentinel that watches a master named `prices`, with a password."""
    master = server_factory(config={"requirepass": "secret"})
    with running_sentinel(master, tmp_path, "auth-pass prices secret", until=("CKQUORUM",)) as (_, port):
        yield f"127.0.0.1:{port}"


def test_sentinel_urls_find_the_master_whichever_sentinel_answers(sentinel: str) -> None:
    unreachable = f"127.0.0.1:{free_port()}"
    for url in (f"sentinel://:secret@{sentinel}/2", f"sentinel://:secret@{unreachable}/2;sentinel://:secret@{sentinel}/2"):
        assert where(redis_url=url, redis_sentinel_master="prices")[0] == 2


def test_a_password_with_signs_in_a_sentinel_url(sentinel: str) -> None:
    assert where(redis_url=f"sentinel://:%73ecret@{sentinel}/2", redis_sentinel_master="prices") == (2, "default")
    with connect(Settings(redis_url=f"sentinel://sh%40p:p%2Fss@{sentinel}")) as client:
        options = client.connection_pool.connection_kwargs
    assert (options["username"], options["password"]) == ("sh@p", "p/ss")


def test_the_sentinels_own_password(sentinel: str) -> None:
    host, _, port = sentinel.partition(":")
    with redis.Redis(host=host, port=int(port)) as admin:
        admin.execute_command("ACL", "SETUSER", "default", "resetpass", ">watcher")
    wanted = {"redis_url": f"sentinel://:secret@{sentinel}/2", "redis_sentinel_master": "prices"}
    with pytest.raises(redis.ConnectionError):
        where(**wanted)
    assert where(**wanted, redis_sentinel_kwargs=(("password", "watcher"),))[0] == 2


@pytest.mark.parametrize("url", ["redis://h/5;redis://h/5", "rediss://h;g", "redis+socket:///a;redis+socket:///b"])
def test_several_servers_that_are_not_sentinels_are_refused_with_what_to_do(url: str) -> None:
    """kombu would use database 5 of the first server; redis-py would read the whole as one host and use its database 0."""
    with pytest.raises(SetupError, match=r"several servers.*one URL.*sentinel://host:26379"):
        connect(Settings(redis_url=url))


def test_a_master_that_the_sentinels_do_not_know_is_an_error_that_names_it(sentinel: str) -> None:
    with (
        connect(Settings(redis_url=f"sentinel://{sentinel}", redis_sentinel_master="unknown")) as client,
        pytest.raises(redis.ConnectionError, match="unknown"),
    ):
        client.ping()


@pytest.fixture
def tls_url(server_factory: Factory, tmp_path: Path) -> str:
    """`host:port` of a server with a self-signed certificate."""
    words = "req -x509 -newkey rsa:2048 -nodes -days 1 -subj /CN=localhost -keyout k.pem -out c.pem"
    if shutil.which("openssl") is None:
        pytest.skip("openssl makes the certificate")
    subprocess.run(["openssl", *words.split()], cwd=tmp_path, check=True, capture_output=True)
    files = {"tls-cert-file": str(tmp_path / "c.pem"), "tls-key-file": str(tmp_path / "k.pem")}
    try:
        server = server_factory(config=files)
    except RuntimeError:
        pytest.skip("this server is built without TLS")
    return f"{server.host}:{server.port}/1"


@pytest.mark.parametrize("tail", ["", "?ssl_cert_reqs=CERT_REQUIRED", "?ssl_cert_reqs=required"])
def test_a_self_signed_certificate_is_refused_unless_it_is_allowed(tls_url: str, tail: str) -> None:
    refused = pytest.raises(redis.ConnectionError, match="CERTIFICATE_VERIFY_FAILED")
    with connect(Settings(redis_url=f"rediss://{tls_url}{tail}")) as client, refused:
        client.ping()


def test_a_self_signed_certificate_is_accepted_if_the_setting_or_the_url_allows_it(tls_url: str) -> None:
    assert where(redis_url=f"rediss://{tls_url}", redis_tls_verify=False)[0] == 1
    for word in ("CERT_NONE", "none"):
        assert where(redis_url=f"rediss://{tls_url}?ssl_cert_reqs={word}")[0] == 1


def test_the_urls_certificate_option_overrides_the_setting_and_keeps_other_options() -> None:
    url = "rediss://host:1/0?ssl_cert_reqs=CERT_REQUIRED&ssl_ca_certs=/ca.pem"
    with connect(Settings(redis_url=url, redis_tls_verify=False)) as client:
        options = client.connection_pool.connection_kwargs
    assert (options["ssl_cert_reqs"], options["ssl_check_hostname"]) == (ssl.CERT_REQUIRED, True)
    assert options["ssl_ca_certs"] == "/ca.pem"


@pytest.mark.parametrize(
    "url", ["amqp://host", "host:6379", "http://host", "redis://host:port/0", "sentinel://host:port", "rediss://h:x"]
)
def test_an_unusable_url_is_refused_before_anything_is_sent(url: str) -> None:
    with pytest.raises(SetupError, match="REDIS_URL is invalid"):
        connect(Settings(redis_url=url))


def test_a_lost_connection_is_an_error_at_once_and_the_command_is_sent_once(
    redis_url: str, client: redis.Redis, proxy: Proxy
) -> None:
    fault = proxy.cut_before_reply(b"counter", times=20)
    url = proxy.url(int(redis_url.rpartition("/")[2]))
    with connect(Settings(redis_url=url)) as distant, pytest.raises(redis.ConnectionError):
        distant.incr("counter")
    assert fault.fired == 1
    assert client.get("counter") == b"1"


def test_a_client_waits_for_a_reply_as_long_as_the_setting_says(redis_url: str, proxy: Proxy) -> None:
    with connect(Settings(redis_url=proxy.url(), redis_timeout_seconds=0.1)) as distant:
        distant.ping()
        proxy.freeze()
        with pytest.raises(redis.TimeoutError):
            distant.ping()
        proxy.thaw()


def test_there_is_a_connection_for_each_of_many_partitions(redis_url: str) -> None:
    """A worker waits on one connection per partition; redis-py's default limit is a hundred."""
    with connect(Settings(redis_url=redis_url)) as client:
        taken = [client.connection_pool.get_connection() for _ in range(150)]
        for connection in taken:
            client.connection_pool.release(connection)
