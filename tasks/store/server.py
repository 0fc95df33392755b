"""Checks the Redis server's version and configuration when a worker starts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

OLDEST_VERSION = (6, 2)

NO_LUA = (
    "the server can't run Lua scripts, which commits need: since Valkey 9.1 Lua is a module, and this server runs without it. Load the "
    "module lua, or use a build that includes it"
)

#: What a server in cluster mode answers to a key, or to keys, that it does not serve.
CLUSTER_ERRORS = (redis.exceptions.MovedError, redis.exceptions.AskError, redis.exceptions.ClusterDownError, redis.exceptions.ClusterCrossSlotError)
CLUSTER = (
    "the server runs in cluster mode, which neither Celery's Redis transport nor partitions support. Use a server without it (cluster-enabled no; "
    "from a provider, a plan without cluster mode), and set REDIS_URL or the app's broker_url to that server"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One problem with the server, and how to fix it."""

    #: One word for the subject.
    subject: Literal["version", "eviction", "role", "persistence", "scripts", "cluster"]
    text: str
    #: Whether a worker refuses to start. Otherwise it only warns.
    refuse: bool


def look_at_server(client: redis.Redis) -> list[Finding]:
    """Find what prevents ordered, exactly-once work on this server. Raises redis-py's errors if the server can't be reached."""
    info: dict[str, Any] = client.info()
    if is_cluster(info):
        return [Finding("cluster", CLUSTER, refuse=True)]
    findings = []
    version = str(info.get("redis_version", "0"))
    if _numbers(version) < OLDEST_VERSION:
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


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
