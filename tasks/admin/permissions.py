"""What the Redis user of a connection may do, and whether the server can be reached from other machines."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

import redis

from celery_partitions.store.names import Names
from celery_partitions.store.scripts import script
from celery_partitions.store.slots import parse_servers


def who_am_i(client: redis.Redis) -> str | None:
    """The Redis user's name; None if the server does not report it."""
    try:
        return str(_text(client.execute_command("ACL", "WHOAMI")))
    except redis.ResponseError:
        return None


def refused_commands(client: redis.Redis, user: str, names: Names) -> list[str] | None:
    """The commands of a worker that the user may not send, or not for this group's keys and channels.

    None if the server cannot check it: before Redis 7, or if the user may not run ACL DRYRUN.
    """
    refused = set()
    for command in worker_commands(names):
        try:
            answer = client.execute_command("ACL", "DRYRUN", user, *command)
        except redis.ResponseError:
            return None
        if _text(answer) != "OK":
            refused.add(str(command[0]))
    return sorted(refused)


def worker_commands(names: Names) -> Iterable[tuple[Any, ...]]:
    """One sample of each command that a worker sends, directly or in scripts."""
    queue, meta, states = names.queue("0"), names.meta("0"), names.states("0", "any")
    digest = script("commit").digest
    return (
        ("BLMOVE", queue, queue, "RIGHT", "RIGHT", "1"),
        ("LRANGE", queue, "0", "1"),
        ("LTRIM", queue, "0", "1"),
        ("LPUSH", queue, "x"),
        ("HMGET", states, "key"),
        ("HSET", states, "key", "x"),
        ("HINCRBY", meta, "commit_number", "1"),
        ("HSET", names.owners, "0", "x"),
        ("ZADD", names.workers, "1", "x"),
        ("ZADD", names.delayed("0"), "1", "x"),
        ("HSET", names.parked("0"), "key", "x"),
        ("ZADD", names.parked_due("0"), "1", "key"),
        ("ZREM", names.parked_due("0"), "key"),
        ("ZRANGEBYSCORE", names.parked_due("0"), "0", "(inf"),
        ("LPUSH", names.mailbox("0", "key"), "x"),
        ("ZREMRANGEBYSCORE", names.rates("0", "any"), "-inf", "1"),
        ("HSET", names.dead("0"), "id", "x"),
        ("HSET", names.isolation("0"), "x", "1:0:0"),
        ("SADD", names.deduplication("0", "any", "young"), "x"),
        ("HSETNX", names.group_meta, "partitions", "1"),
        ("HSET", names.measurements, "0", "x"),
        ("LPUSH", names.commits("0"), "x"),
        ("LPUSH", names.history("0", "fine"), "x"),
        ("HSET", names.reports, "x", "{}"),
        ("HGETALL", names.policies),
        ("PUBLISH", names.changed, "x"),
        ("SUBSCRIBE", names.changed),
        ("EVALSHA", digest, "1", queue),
        ("TIME",),
    )


def needs_no_password(client: redis.Redis) -> bool:
    """Whether the user `default` needs no password; False if the server does not report it."""
    try:
        meta: Any = client.acl_getuser("default")
    except redis.ResponseError:
        return False
    flags = meta.get("flags", []) if isinstance(meta, dict) else []
    return "nopass" in flags and "off" not in flags


def is_local(redis_url: str) -> bool:
    """Whether every address in the URL is on this machine."""
    return all(
        part.startswith(("unix:", "redis+socket:")) or _host(part) in ("localhost", "::1") or _host(part).startswith("127.")
        for part in (_servers(redis_url) if "," in redis_url or "+cluster://" in redis_url else redis_url.split(";"))
    )


def _servers(url: str) -> list[str]:
    servers = parse_servers(url)
    return [servers.of(address) for address in servers.addresses]


def _host(url: str) -> str:
    return urlsplit(url if "://" in url else f"sentinel://{url}").hostname or "127.0.0.1"


def _text(answer: Any) -> Any:
    return answer.decode("utf-8", "replace") if isinstance(answer, bytes) else answer
