"""Checks the Redis server's version and configuration when a worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import redis

from celery_partitions.store.servers import Servers

OLDEST_VERSION = (6, 2)

NO_LUA = (
    "the server can't run Lua scripts, which commits need: since Valkey 9.1 Lua is a module, and this server runs without it. Load the "
    "module lua, or use a build that includes it"
)

#: What a server in cluster mode answers to a key, or to keys, that it does not serve.
CLUSTER_ERRORS = (redis.exceptions.MovedError, redis.exceptions.AskError, redis.exceptions.ClusterDownError, redis.exceptions.ClusterCrossSlotError)
CLUSTER = (
    "the server runs in cluster mode, which Celery's Redis transport does not support. Set REDIS_URL or the app's broker_url to a server without it "
    "(cluster-enabled no; from a provider, a plan without cluster mode). To keep the partitions in the cluster, set "
    "PARTITIONS_URL=redis+cluster://host:port as well"
)
NO_CLUSTER = (
    "PARTITIONS_URL lists plain servers, but this one runs in cluster mode. Write redis+cluster://host:port for a cluster, or use servers without "
    "cluster mode (cluster-enabled no)"
)
OLDEST_CLUSTER = (7, 0)


def server_time(client: redis.Redis) -> float:
    """The server's clock: seconds since the epoch."""
    seconds, micros = client.time()
    return float(seconds + micros / 1_000_000)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with the server, and how to fix it."""

    #: One word for the subject.
    subject: Literal["version", "eviction", "role", "persistence", "scripts", "cluster"]
    text: str
    #: Whether a worker refuses to start. Otherwise it only warns.
    refuse: bool


def look_at_server(client: redis.Redis) -> list[Finding]:
    """Find what prevents ordered, exactly-once work on this server. Raises redis-py's errors if the server can't be reached.

    With several servers: on each that answers, and on the control server, which must.
    """
    if isinstance(client, Servers):
        findings = look_at_server(client.control)
        for address, one in client.all().items():
            with suppress(redis.ConnectionError, redis.TimeoutError, OSError):  # the partitions on the others can be worked on
                findings += [replace(finding, text=f"{address}: {finding.text}") for finding in look_at_data_server(one, client.url.is_cluster)]
        return findings
    info: dict[str, Any] = client.info()
    if is_cluster(info):
        return [Finding("cluster", CLUSTER, refuse=True)]
    return _look(client, info)


def look_at_data_server(client: redis.Redis, is_in_cluster: bool) -> list[Finding]:
    """The same of one of the partitions' servers."""
    info: dict[str, Any] = client.info()
    if is_cluster(info) and not is_in_cluster:
        return [Finding("cluster", NO_CLUSTER, refuse=True)]
    version = str(info.get("redis_version", "0"))
    findings = _look(client, info)
    if is_in_cluster and version_numbers(version) < OLDEST_CLUSTER:
        findings.append(Finding("version", f"the server is Redis {version}; a cluster needs at least 7.0. Upgrade it", refuse=True))
    return findings


def _look(client: redis.Redis, info: Mapping[str, Any]) -> list[Finding]:
    findings = []
    version = str(info.get("redis_version", "0"))
    if version_numbers(version) < OLDEST_VERSION:
        findings.append(Finding("version", f"the server is Redis {version}; the minimum is 6.2. Upgrade it", refuse=True))
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    if policy.startswith("allkeys") and limit:
        text = f"maxmemory-policy is {policy}: the server may evict queues and states. Set maxmemory-policy noeviction"
        findings.append(Finding("eviction", text, True))
    elif policy != "noeviction":
        findings.append(
            Finding(
                "eviction",
                f"maxmemory-policy is {policy}: set it to noeviction before you set a memory limit",
                refuse=False,
            )
        )
    if str(info.get("role", "master")) != "master":
        text = "the server is a read-only replica. Set REDIS_URL to the master"
        findings.append(Finding("role", text, refuse=True))
    if not int(info.get("aof_enabled", 0)) and _never_saves(client):
        text = "persistence is off: a restart of the server loses queues and states. Set appendonly yes"
        findings.append(Finding("persistence", text, False))
    try:
        client.eval("return 1", 0)
    except redis.ResponseError as error:
        if has_no_lua(error):
            findings.append(Finding("scripts", NO_LUA, refuse=True))
    return findings


def has_other_databases(client: redis.Redis) -> bool:
    """Whether there are keys in another database of the server than the client's; True if the server does not say."""
    if isinstance(client, Servers):
        return any(has_other_databases(one) for one in client.all().values())
    try:
        databases = client.info("keyspace")
    except redis.ResponseError:
        return True
    own = f"db{client.connection_pool.connection_kwargs.get('db') or 0}"
    return any(name != own for name in databases)


def is_cluster(info: Mapping[str, Any]) -> bool:
    """Whether a server's INFO says that it runs in cluster mode, even with one node."""
    return bool(int(info.get("cluster_enabled", 0)))


def has_no_lua(error: redis.ResponseError) -> bool:
    """Whether the server refused a script because it can't run Lua."""
    return "scripting engine" in str(error)


def _never_saves(client: redis.Redis) -> bool:
    """Whether snapshots are off too. False if the server refuses CONFIG, as managed servers may."""
    try:
        answer = cast(dict[str, str], client.config_get("save"))
    except redis.ResponseError:
        return False
    return not answer.get("save", "x").strip()


def version_numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
