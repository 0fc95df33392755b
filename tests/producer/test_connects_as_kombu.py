"""Our client connects as kombu does with the app's configuration: TLS options, credential providers, completed URLs."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
from celery import Celery
from redis.credentials import CredentialProvider

from celery_partitions import SetupError
from celery_partitions.runtime.registry import installation_of
from celery_partitions.store.client import connect
from celery_partitions_config.settings import Settings
from tests.producer.conftest import MakeApp
from tests.producer.declared import partition, update
from tests.support.certificates import Authority
from tests.support.server import RedisServer

AAPL = f"partition.{partition('AAPL')}"
MESSAGE = {"symbol": "AAPL", "price": 1.0}
PROVIDER = f"{__name__}:Provider"


class Provider(CredentialProvider):
    """Like ElastiCache's provider with IAM, which creates a token."""

    def get_credentials(self) -> tuple[str, str]:
        return "shop", "token"


def client_of(app: Celery) -> redis.Redis:
    installation = installation_of(app)
    assert installation is not None
    return installation.group.client


def options_of(url: str, **settings: Any) -> tuple[type, dict[str, Any]]:
    with connect(Settings(redis_url=url, **settings)) as client:
        return client.connection_pool.connection_class, client.connection_pool.connection_kwargs


def both_arrive(app: Celery, queue: str = AAPL) -> None:
    """Check that a message of ours and one of kombu's are in the same queue, which our client reads."""
    update.delay(MESSAGE)
    update.send_many([MESSAGE])
    app.send_task(update.name, [MESSAGE], headers={"sent": "by Celery"})
    assert client_of(app).llen(queue) == 3
    with app.connection_for_write() as broker:
        assert broker.default_channel.client.llen(queue) == 3


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path)


@pytest.fixture
def place(server_factory: Callable[..., RedisServer], authority: Authority) -> str:
    """`host:port/database` of a server that speaks only TLS."""
    try:
        server = server_factory(config=authority.sign("IP:127.0.0.1"))
    except RuntimeError:
        pytest.skip("this server is built without TLS")
    return f"{server.host}:{server.port}/1"


@pytest.mark.parametrize("scheme", ["redis", "rediss"])
@pytest.mark.parametrize("how", ["heroku", "a CA", "in the URL", "a CA in the URL"])
def test_tls_options_of_the_app(place: str, authority: Authority, make_app: MakeApp, scheme: str, how: str) -> None:
    ca = {"ssl_cert_reqs": ssl.CERT_REQUIRED, "ssl_ca_certs": str(authority.file)}
    tail = {"in the URL": "?ssl_cert_reqs=CERT_NONE", "a CA in the URL": f"?ssl_cert_reqs=required&ssl_ca_certs={authority.file}"}.get(how, "")
    options = {"heroku": {"broker_use_ssl": {"ssl_cert_reqs": ssl.CERT_NONE, "ssl_check_hostname": False}}, "a CA": {"broker_use_ssl": ca}}
    if how == "in the URL":
        tail += "&ssl_check_hostname=false"
    both_arrive(make_app(f"{scheme}://{place}{tail}", Settings(partitions=4), **options.get(how, {})))


def test_herokus_recipe_needs_no_other_setting(make_app: MakeApp) -> None:
    """redis-py refuses an unverified certificate with a checked host name."""
    app = make_app("rediss://host:1/0", Settings(), broker_use_ssl={"ssl_cert_reqs": ssl.CERT_NONE})
    options = client_of(app).connection_pool.connection_kwargs
    assert (options["ssl_cert_reqs"], options["ssl_check_hostname"]) == (ssl.CERT_NONE, False)


@pytest.mark.parametrize("value", ["CERT_NONE", "none", "cert_none"])
def test_an_url_with_tls_options_connects_with_tls(value: str) -> None:
    kind, options = options_of(f"redis://u:p@host:1/5?ssl_cert_reqs={value}&ssl_certfile=/c.pem")
    assert issubclass(kind, redis.SSLConnection)
    assert (options["ssl_cert_reqs"], options["ssl_certfile"], options["db"], options["password"]) == (ssl.CERT_NONE, "/c.pem", 5, "p")


def test_without_options_of_the_app_the_settings_are_used() -> None:
    kind, options = options_of("rediss://host:1/0", redis_tls_verify=False, redis_tls_ca_file="/ca.pem")
    assert issubclass(kind, redis.SSLConnection)
    assert (options["ssl_cert_reqs"], options["ssl_check_hostname"], options["ssl_ca_certs"]) == (ssl.CERT_NONE, False, "/ca.pem")
    assert issubclass(options_of("redis://host:1/0", redis_tls_ca_file="/ca.pem")[0], redis.Connection)
    assert not issubclass(options_of("redis://host:1/0")[0], redis.SSLConnection)


def test_sentinels_master_with_tls() -> None:
    kind, options = options_of("sentinel://:p@host:1/5;sentinel://other:1", redis_tls_options=(("ssl_cert_reqs", ssl.CERT_NONE),))
    assert issubclass(kind, redis.SSLConnection)
    assert (options["ssl_cert_reqs"], options["password"], options["db"]) == (ssl.CERT_NONE, "p", 5)


def test_an_unknown_value_for_certificates_is_an_error() -> None:
    with pytest.raises(SetupError, match="CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE"):
        connect(Settings(redis_url="rediss://host?ssl_cert_reqs=never"))


@pytest.fixture
def guarded(server_factory: Callable[..., RedisServer], tmp_path: Path) -> RedisServer:
    """A server that accepts only the provider's user."""
    server = server_factory(config={"unixsocket": str(tmp_path / "redis.sock")})
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "shop", "on", ">token", "~*", "&*", "+@all")
        admin.execute_command("ACL", "SETUSER", "default", "off")
    return server


@pytest.mark.parametrize("login", ["", ":old@", "someone:old@"])
def test_a_credential_provider(guarded: RedisServer, make_app: MakeApp, login: str) -> None:
    both_arrive(make_app(f"redis://{login}{guarded.host}:{guarded.port}/1?credential_provider={PROVIDER}", Settings(partitions=4)))


def test_a_credential_provider_of_a_socket(guarded: RedisServer, tmp_path: Path, make_app: MakeApp) -> None:
    client = client_of(make_app(f"redis+socket://{tmp_path}/redis.sock?virtual_host=3&credential_provider={PROVIDER}", Settings()))
    info = client.client_info()
    assert (info["db"], info["user"]) == (3, "shop")


def test_a_credential_provider_of_sentinels_master() -> None:
    _, options = options_of(f"sentinel://:old@host:1/5?credential_provider={PROVIDER};sentinel://other:1")
    assert isinstance(options["credential_provider"], Provider)
    assert "password" not in options


def test_connection_options_of_the_app_besides_the_url(server_factory: Callable[..., RedisServer], make_app: MakeApp) -> None:
    server = server_factory(config={"requirepass": "p@ss"})
    app = make_app(f"redis://{server.host}", Settings(partitions=4), broker_password="p@ss", broker_port=server.port, broker_vhost="3")
    both_arrive(app)
    assert client_of(app).client_info()["db"] == 3


def test_the_url_overrides_the_connection_options_of_the_app(make_app: MakeApp) -> None:
    options = {"broker_user": "other", "broker_password": "other", "broker_port": 2, "broker_vhost": "9"}
    app = make_app("redis://u:p%40@host:1/3?health_check_interval=7", Settings(), **options)
    options = client_of(app).connection_pool.connection_kwargs
    assert (options["username"], options["password"], options["host"], options["port"], options["db"]) == ("u", "p@", "host", 1, 3)
    broker = kombu.Connection("redis://u:p%40@host:1/3", "other", "other", "9", 2)
    assert (broker.userid, broker.password, broker.hostname, broker.port, broker.virtual_host) == ("u", "p@", "host", 1, "3")
