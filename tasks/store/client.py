"""Connections to Redis, without hidden retries and with a bounded wait for each reply.

By default redis-py retries a command up to ten times when a connection breaks, even a script. Our client never retries (law 4),
because only the caller knows whether a commit may be sent again.
"""

from __future__ import annotations

import ssl
from typing import Any
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import redis
import redis.asyncio
from kombu.utils.imports import symbol_by_name
from redis.asyncio.retry import Retry as AsyncRetry
from redis.asyncio.sentinel import Sentinel as AsyncSentinel
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel

from celery_partitions.model.errors import SetupError
from celery_partitions.store.packing import Packer
from celery_partitions_config.settings import Settings

#: What redis-py raises when the problem is the whole server (gone, silent, loading, a replica after a failover), not one key.
SERVER_ERRORS = (
    redis.ConnectionError,
    redis.TimeoutError,
    OSError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MasterDownError,
)


#: In effect no limit: higher than any number of partitions.
MAX_CONNECTIONS = 2**31


def connect(settings: Settings) -> redis.Redis:
    """A client for the server in the settings. It connects on first use. Raises `SetupError` for an invalid URL."""
    return _connect(settings, redis.Redis, Sentinel, Retry, command_packer=Packer())  # type: ignore[no-any-return]


def connect_async(settings: Settings) -> Any:
    """The same for asyncio: a `redis.asyncio.Redis`, for the running event loop."""
    return _connect(settings, redis.asyncio.Redis, AsyncSentinel, AsyncRetry)


def _connect(settings: Settings, make_client: Any, make_sentinel: Any, make_retry: Any, **more: Any) -> Any:
    options: dict[str, Any] = {
        "retry": make_retry(NoBackoff(), 0),
        "socket_timeout": settings.redis_timeout_seconds,
        "socket_connect_timeout": settings.redis_timeout_seconds,
        "socket_keepalive": True,
        "health_check_interval": 0,
        # Where a server refuses CLIENT TRACKING a worker waits on one connection for each partition; redis-py's own limit is 100.
        "max_connections": MAX_CONNECTIONS,
        **more,
    }
    url = settings.redis_url
    refuse_failover(url)
    try:
        url, tls = _take_connection_options(url, options)
        tls = tls or dict(settings.redis_tls_options)
        if tls or url.startswith("rediss://"):
            options.update(_tls(settings, tls))
            if url.startswith("redis://"):
                url = f"rediss://{url.removeprefix('redis://')}"
        if url.startswith("sentinel://"):
            return _from_sentinel(make_sentinel, url, settings, options | {"ssl": True} if tls else options)
        if url.startswith(("redis+socket://", "unix://")):
            del options["socket_keepalive"]  # unix sockets do not support it
            url = _socket(url)
        return make_client.from_url(url, **options)
    except ValueError as error:
        raise SetupError(f"REDIS_URL is invalid: {error}. Correct it, for example redis://host:6379/0") from None


def reserve(client: redis.Redis, connections: int) -> None:
    """Make sure that the client has this many working connections, and keep them in its pool. Raises redis-py's errors and OSError."""
    pool: Any = client.connection_pool
    taken: list[Any] = []
    try:
        for _ in range(connections):
            taken.append(pool.get_connection())
            taken[-1].send_command("PING")
        for connection in taken:
            connection.read_response()
    except BaseException:
        for connection in taken:  # one of them may have an answer pending
            connection.disconnect()
        raise
    finally:
        for connection in taken:
            pool.release(connection)


def verification(client: redis.Redis) -> ssl.VerifyMode | None:
    """How a client of ours verifies the server's certificate. None: it connects without TLS."""
    pool = client.connection_pool
    return pool.connection_kwargs["ssl_cert_reqs"] if issubclass(pool.connection_class, redis.SSLConnection) else None


def refuse_failover(url: str) -> None:
    """Raise `SetupError` for a URL with several servers, except Sentinel's. kombu would use one after the other and redis-py would parse
    the text as one URL, so queues and states could end up on different servers."""
    if ";" in url and not url.startswith("sentinel://"):
        raise SetupError(
            "REDIS_URL, or the app's broker_url, names several servers (;), but queues and states must be in one Redis. Give one URL. "
            "For failover, give the sentinels: sentinel://host:26379;sentinel://other:26379"
        )


def _socket(url: str) -> str:
    """Convert Celery's `redis+socket:///path?virtual_host=3` to redis-py's `unix:///path?db=3`. Both are accepted."""
    _, _, place = url.partition("://")
    path, mark, query = place.partition("?")
    words = [("db", value.lstrip("/")) if name == "virtual_host" else (name, value) for name, value in parse_qsl(query)]
    return f"unix://{path}{mark}{urlencode(words)}"


def _take_connection_options(url: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Take kombu's options out of a URL's query: returns the rest and the TLS options, and puts a credential provider into `options`.

    kombu connects with TLS if there is one of `ssl_…`, also for redis://. Of several URLs it reads the first one's query.
    """
    first, semicolon, others = url.partition(";")
    place, _, query = first.partition("?")
    tls: dict[str, Any] = {}
    rest = []
    for name, value in parse_qsl(query):
        if name.startswith("ssl_"):
            tls[name] = value.lower() != "false" if name == "ssl_check_hostname" else value
        elif name == "credential_provider":
            options[name] = symbol_by_name(value)()
            scheme, _, where = place.partition("://")
            place = f"{scheme}://{where.rpartition('@')[2]}"  # kombu drops the URL's user and password, too
        else:
            rest.append((name, value))
    return place + ("?" + urlencode(rest) if rest else "") + semicolon + others, tls


def _tls(settings: Settings, given: dict[str, Any]) -> dict[str, Any]:
    """redis-py's TLS options: those given by the URL or the app, and for what they leave open the settings."""
    mode = given.get("ssl_cert_reqs", ssl.CERT_REQUIRED if settings.redis_tls_verify else ssl.CERT_NONE)
    if isinstance(mode, str):
        known = {one.name.removeprefix("CERT_"): one for one in ssl.VerifyMode}
        name = mode.upper().removeprefix("CERT_")
        if name not in known:
            raise ValueError(f"ssl_cert_reqs={mode} is not one of CERT_REQUIRED, CERT_OPTIONAL, CERT_NONE")
        mode = known[name]
    tls = {"ssl_check_hostname": mode != ssl.CERT_NONE, **given, "ssl_cert_reqs": ssl.VerifyMode(mode or ssl.CERT_NONE)}
    if settings.redis_tls_ca_file is not None:
        tls.setdefault("ssl_ca_certs", settings.redis_tls_ca_file)
    return tls


def _from_sentinel(make_sentinel: Any, url: str, settings: Settings, options: dict[str, Any]) -> Any:
    """Parse Celery's format: sentinel://[user:password@]host:port/db;sentinel://host:port"""
    parts = url.split(";")
    places = [urlsplit(part if "://" in part else f"sentinel://{part}") for part in parts if part]
    first = places[0]
    database = first.path.strip("/") or "0"
    sentinel = make_sentinel(
        [(place.hostname or "127.0.0.1", place.port or 26379) for place in places],
        sentinel_kwargs={"socket_timeout": options["socket_timeout"], **dict(settings.redis_sentinel_kwargs)},
    )
    return sentinel.master_for(
        settings.redis_sentinel_master,
        **({} if "credential_provider" in options else {"username": _unquoted(first.username), "password": _unquoted(first.password)}),
        db=int(database),
        **options,
    )


def _unquoted(part: str | None) -> str | None:
    """Decode percent escapes, which `urlsplit` does not."""
    return None if part is None else unquote(part)
