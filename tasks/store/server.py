"""What the server must be, and what it should be: looked at when a worker starts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, cast

import redis

OLDEST_VERSION = (6, 2)

NO_LUA = (
    "the server has no Lua: since 9.1 it is a module of Valkey, and this server runs without it. Load the module lua, "
    "or use a build that has it: a commit is a script"
)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing about the server, with its mend."""

    #: One word: what it is about.
    subject: Literal["version", "eviction", "role", "persistence", "scripts"]
    text: str
    #: A worker refuses to start on it; else it warns.
    refuse: bool


def look_at_server(client: redis.Redis) -> list[Finding]:
    """What is wrong with the server for ordered, exactly-once work. Raises redis-py's errors when it can't be asked."""
    info: dict[str, Any] = client.info()
    findings = []
    version = str(info.get("redis_version", "0"))
    if _numbers(version) < OLDEST_VERSION:
        findings.append(Finding("version", f"the server is Redis {version}; 6.2 or newer is needed. Upgrade it", refuse=True))
    policy, limit = str(info.get("maxmemory_policy", "noeviction")), int(info.get("maxmemory", 0))
    if policy.startswith("allkeys") and limit:
        mend = "set maxmemory-policy noeviction"
        text = f"maxmemory-policy is {policy}: the server may evict queues and states; {mend}"
        findings.append(Finding("eviction", text, True))
    elif policy != "noeviction":
        findings.append(
            Finding(
                "eviction",
                f"maxmemory-policy is {policy}: set it to noeviction before the server has a memory limit to act on",
                refuse=False,
            )
        )
    if str(info.get("role", "master")) != "master":
        text = "the server is a read-only replica: REDIS_URL must name the master"
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


def has_no_lua(error: redis.ResponseError) -> bool:
    """Whether the server refused a script because it has nothing to run it with."""
    return "scripting engine" in str(error)


def _never_saves(client: redis.Redis) -> bool:
    """Whether snapshots are off too. A managed server may not say; then nothing is claimed."""
    try:
        answer = cast(dict[str, str], client.config_get("save"))
    except redis.ResponseError:
        return False
    return not answer.get("save", "x").strip()


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
