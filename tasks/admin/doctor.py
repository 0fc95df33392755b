"""Health checks of the server, the group and this process, each with its fix.

A check never raises for what it finds. What a server refuses to report (a managed server, a restricted user) counts as ok, and the
text says so.
"""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.metadata import version
from typing import Any, cast

import redis

from celery_partitions.admin.checks import Check
from celery_partitions.admin.doctor_servers import examine_servers
from celery_partitions.admin.known_flaws import describe_flaws
from celery_partitions.admin.permissions import is_local, needs_no_password, refused_commands, who_am_i
from celery_partitions.admin.queue_consumers import describe_foreign_consumers
from celery_partitions.admin.resize import SLOW_RESIZE_SECONDS, describe, read_progress
from celery_partitions.admin.status import PartitionStatus, read_status
from celery_partitions.admin.workers import WorkerStatus, read_workers
from celery_partitions.model.errors import SetupError
from celery_partitions.store.client import SERVER_ERRORS, connect, verification
from celery_partitions.store.names import Names
from celery_partitions.store.server import CLUSTER, NO_LUA, Finding, has_no_lua, is_cluster, look_at_server
from celery_partitions.store.servers import Servers
from celery_partitions.store.topology import read_topology
from celery_partitions_config.resolution import Resolved
from celery_partitions_config.settings import Settings

#: Producers' clocks decide when an `eta` is due and when a message expires. The server's clock decides about leases.
SKEW_TO_WARN_SECONDS, BAD_SKEW_SECONDS = 1.0, 60.0
#: Shares of the server's memory in use. Above the first there is time to act; above the second there is hardly any.
MEMORY_TO_WARN, BAD_MEMORY = 0.75, 0.9
#: Connections of one worker: at most 4 each for the loop and the lease keeper, the rest are Celery's. A test counts them.
CONNECTIONS_PER_WORKER = 16
#: The oldest versions that have everything we use.
LIBRARIES = {"celery": (5, 7), "kombu": (5, 7), "redis": (8,)}


def examine(
    settings: Settings, client: redis.Redis, names: Names, ask_for_consumers: Callable[[], Mapping[str, list[str]]] = dict
) -> list[Check]:
    """Run all checks; the most basic ones come first. `ask_for_consumers` returns the queues that Celery workers consume, by node name; it
    is called if the server answers."""
    before = time.time()
    try:
        seconds, micros = client.time()
        info: dict[str, Any] = client.info()
    except SERVER_ERRORS as error:
        return [Check("server", "bad", f"not reachable: {str(error).rstrip('.')}. Start it, or correct REDIS_URL"), *_libraries()]
    except redis.ResponseError as error:
        return [Check("server", "bad", f"refuses TIME or INFO: {str(error).rstrip('.')}. Allow both commands for this Redis user"), *_libraries()]
    if is_cluster(info):  # it refuses what the other checks ask
        return [Check("cluster", "bad", CLUSTER), *_libraries()]
    skew = seconds + micros / 1e6 - (before + time.time()) / 2
    return [
        *_server(client, info),
        judge_flaws(info),
        *_fsync(client, info),
        judge_clock(skew),
        judge_memory(info),
        judge_clients(info),
        judge_replicas(settings, info),
        *_scripts(client),
        _user(client, settings, names),
        judge_connection(settings),
        judge_signing(settings),
        *(examine_servers(client, names, settings.partitions, partial(_data_server, settings)) if isinstance(client, Servers) else ()),
        *_group(client, names, settings, ask_for_consumers, seconds + micros / 1e6),
        *_libraries(),
    ]


def _data_server(settings: Settings, client: redis.Redis, info: Mapping[str, Any]) -> list[Check]:
    """The checks of a partitions' server that are made of the control server, too."""
    return [judge_flaws(info), *_fsync(client, info), judge_memory(info), judge_clients(info), judge_replicas(settings, info)]


def examine_server(settings: Settings, client: redis.Redis, names: Names) -> list[Check]:
    """The checks of the server's memory, disk and connections alone. Raises redis-py's errors, but nothing for what a server refuses."""
    try:
        info: dict[str, Any] = client.info()
    except redis.ResponseError:
        return []
    if is_cluster(info):
        return []
    server = (check for check in _server(client, info) if check.subject in ("eviction", "persistence", "role"))
    others = examine_servers(client, names, settings.partitions, partial(_data_server, settings)) if isinstance(client, Servers) else ()
    return [*server, *_fsync(client, info), judge_memory(info), judge_clients(info), judge_replicas(settings, info), *others]


def judge_settings(resolved: Resolved, misspelt: Mapping[str, str]) -> list[Check]:
    """Check for values that are not valid and for misspelt variables (`misspelt`: variable → the name that was probably meant)."""
    checks = [Check("settings", "bad", str(error)) for error in resolved.refused.values()]
    checks += [Check("settings", "warn", f"{name} is not a setting. Did you mean {meant}?") for name, meant in misspelt.items()]
    return checks or [Check("settings", "ok", "every value is valid (celery -A APP partitions settings lists them)")]


def _server(client: redis.Redis, info: Mapping[str, Any]) -> Iterator[Check]:
    """The checks that a worker makes when it starts. A subject without a finding is ok."""
    found: dict[str, Finding] = {finding.subject: finding for finding in look_at_server(client.control if isinstance(client, Servers) else client)}
    name = "Valkey" if "valkey_version" in info else "Redis"
    well = {
        "version": f"{name} {info.get('valkey_version') or info.get('redis_version')}",
        "eviction": "nothing is evicted",
        "role": "a master",
        "persistence": "append-only file" if info.get("aof_enabled") else "snapshots: a crash loses everything since the last one",
    }
    for subject, text in well.items():
        finding = found.get(subject)
        if finding is None:
            yield Check(subject, "ok", text)
        else:
            yield Check(subject, "bad" if finding.refuse else "warn", finding.text)


def _fsync(client: redis.Redis, info: Mapping[str, Any]) -> Iterator[Check]:
    for what, mark in (("append-only file", "aof_last_write_status"), ("snapshot", "rdb_last_bgsave_status")):
        if info.get(mark, "ok") != "ok":
            yield Check("fsync", "bad", f"the last write of the {what} failed. Check the disk and the server's log")
    if not info.get("aof_enabled"):
        return
    policy = _configured(client, "appendfsync")
    match policy:
        case "always":
            yield Check("fsync", "ok", "always: every confirmed write is on disk")
        case "everysec":
            yield Check("fsync", "ok", "everysec: a power failure can lose the last second or two")
        case "no":
            fix = "Set appendfsync everysec, or always"
            yield Check("fsync", "warn", f"no: a power failure can lose about the last 30 seconds. {fix}")
        case _:
            yield Check("fsync", "ok", "the server does not report appendfsync")


def judge_flaws(info: Mapping[str, Any]) -> Check:
    """Warn about known flaws. It is only a warning, because a packager may have patched a version without changing its number."""
    text = describe_flaws(info)
    return Check("flaws", "ok", "no known flaw lets a client run code on the server") if text is None else Check("flaws", "warn", text)


def judge_clock(skew_seconds: float) -> Check:
    """`skew_seconds`: the server's clock minus this process's."""
    size = abs(skew_seconds)
    if size <= SKEW_TO_WARN_SECONDS:
        return Check("clock", "ok", f"this machine and the server differ by {size * 1000:.0f} ms")
    text = (
        f"this machine is {size:.1f} s {'behind' if skew_seconds > 0 else 'ahead of'} the server, so eta and expires of its "
        "messages are wrong by that much. Synchronize both clocks with NTP"
    )
    return Check("clock", "bad" if size > BAD_SKEW_SECONDS else "warn", text)


def judge_memory(info: Mapping[str, Any]) -> Check:
    used, limit = int(info.get("used_memory", 0)), int(info.get("maxmemory", 0))
    whole = limit or int(info.get("total_system_memory", 0))
    if not whole:
        return Check("memory", "ok", f"{used / 2**20:,.0f} MiB used; the server does not report its limit")
    part = used / whole
    of = "maxmemory" if limit else "the machine's memory (no maxmemory)"
    text = f"{used / 2**20:,.0f} MiB used, {part:.0%} of {of}"
    if part <= MEMORY_TO_WARN:
        return Check("memory", "ok", text)
    fix = "A full server refuses messages. Start more workers, set PARTITIONS_QUEUE_MAX_LENGTH, or give it more memory"
    return Check("memory", "bad" if part > BAD_MEMORY else "warn", f"{text}. {fix}")


def judge_clients(info: Mapping[str, Any]) -> Check:
    """Check that another worker can connect. Redis reports `maxclients` from version 7."""
    used, limit = int(info.get("connected_clients", 0)), int(info.get("maxclients", 0))
    text = f"{used:,} connected; a worker uses up to {CONNECTIONS_PER_WORKER}, however many partitions it owns"
    if not limit:
        return Check("connections", "ok", text)
    free = limit - used
    text = f"{used:,} of {limit:,} connections are in use; a worker uses up to {CONNECTIONS_PER_WORKER}"
    if free >= CONNECTIONS_PER_WORKER:
        return Check("connections", "ok", text)
    return Check("connections", "warn", f"{text}. There is no room for another worker. Raise maxclients, or your provider's limit")


def judge_replicas(settings: Settings, info: Mapping[str, Any]) -> Check:
    count, wanted = int(info.get("connected_slaves", 0)), settings.wait_replicas or 0
    if wanted > count:
        text = f"PARTITIONS_WAIT_REPLICAS is {wanted}, but {count} are connected: each commit waits {settings.wait_milliseconds} ms in vain"
        return Check("replicas", "bad", f"{text}. Connect replicas, or set PARTITIONS_WAIT_REPLICAS=0")
    if wanted:
        return Check("replicas", "ok", f"{count} connected; a commit waits until {wanted} have it")
    if count:
        return Check("replicas", "ok", f"{count} connected; a failover can lose commits that they have not received")
    return Check("replicas", "ok", "none")


def _scripts(client: redis.Redis) -> Iterator[Check]:
    try:
        client.eval("return 1", 0)
    except redis.ResponseError as error:
        text = f"refused: {error}. Allow EVAL and EVALSHA, which every commit needs"
        yield Check("scripts", "bad", NO_LUA if has_no_lua(error) else text)
    else:
        yield Check("scripts", "ok", "allowed")


def _user(client: redis.Redis, settings: Settings, names: Names) -> Check:
    user = who_am_i(client)
    if user is None:
        return Check("user", "ok", "the server does not report the user's name")
    refused = refused_commands(client, user, names)
    if refused:
        text = f"{user!r} may not use commands that a worker needs: {', '.join(refused)}. See Security in the README"
        return Check("user", "bad", text)
    if user == "default" and not is_local(settings.redis_url) and needs_no_password(client):
        text = "anyone who can reach the server can use it without a password. Set a password for the user default, or turn that user off"
        return Check("user", "bad", text)
    if refused is None:
        return Check("user", "ok", f"{user!r}; the server does not report its permissions")
    return Check("user", "ok", f"{user!r} has all permissions that a worker needs")


def judge_connection(settings: Settings) -> Check:
    with connect(settings) as client:  # opens no connection
        verified = verification(client)
    if verified == ssl.CERT_NONE:
        fix = "Verify it: ssl_cert_reqs and ssl_ca_certs in the app's broker_use_ssl, or PARTITIONS_REDIS_TLS_VERIFY=1 and PARTITIONS_REDIS_TLS_CA_FILE"
        return Check("TLS", "warn", f"on, but the server's certificate is not verified. {fix}")
    if verified is not None:
        return Check("TLS", "ok", "on, and the server's certificate is verified")
    if is_local(settings.redis_url):
        return Check("TLS", "ok", "off; the server is on this machine")
    return Check("TLS", "warn", "off, and the server is on another machine: anyone on the network path can read and change the traffic. Use rediss://")


def judge_signing(settings: Settings) -> Check:
    keys = len(settings.state_signing_keys)
    if keys:
        return Check("signing", "ok", f"states are signed ({keys} {'key' if keys == 1 else 'keys'})")
    fix = "Set PARTITIONS_STATE_SIGNING_KEY (openssl rand -hex 32); a worker with a key does not read states that were written without one"
    return Check("signing", "warn", f"states are not signed: anyone who can write to Redis can forge states. {fix}")


def _group(
    client: redis.Redis, names: Names, settings: Settings, ask_for_consumers: Callable[[], Mapping[str, list[str]]], now: float
) -> Iterator[Check]:
    try:
        found = client.hget(names.group_meta, "partitions")
        progress, topology = read_progress(client, names, settings.partitions), read_topology(client, names, settings.partitions)
        count = topology.partitions
        rows, workers = read_status(client, names, topology.served), read_workers(client, names)
        foreign = describe_foreign_consumers(client, names, topology.served, workers, ask_for_consumers(), now)
    except SetupError as error:
        yield Check("partitions", "bad", str(error))
        return
    except (redis.ResponseError, ValueError) as error:
        yield Check("partitions", "bad", f"cannot read the group {names.group!r}: {error}")
        return
    if found is None:
        yield Check("partitions", "ok", f"not set yet; the first process that uses the group sets it to {count}")
    elif topology.former is not None:
        is_slow = progress.state == "moving" and (progress.seconds or 0) > SLOW_RESIZE_SECONDS
        yield Check("partitions", "warn" if is_slow else "ok", f"a resize is in progress: {describe(progress)}")
    elif count != settings.partitions and topology.epoch:
        text = f"the group has {count} since a resize, but PARTITIONS is {settings.partitions}"
        yield Check("partitions", "warn", f"{text}: a producer that may only push uses it. Set PARTITIONS={count} in every environment that has it")
    elif count != settings.partitions:
        text = f"the group has {count}, but PARTITIONS is {settings.partitions}: no process starts with these settings"
        yield Check("partitions", "bad", f"{text}. Set PARTITIONS={count}, or use another PARTITIONS_GROUP")
    else:
        yield Check("partitions", "ok", f"{count}, the same here and in Redis")
    yield judge_workers(rows, workers, names)
    if foreign is None:
        yield Check("queues", "ok", "only partition workers consume the partitions' queues, as far as was seen")
    else:
        yield Check("queues", "bad", foreign)


def judge_workers(rows: list[PartitionStatus], workers: list[WorkerStatus], names: Names) -> Check:
    if not workers:
        return Check("workers", "warn", "none: no messages are processed. Start a worker")
    counted = f"{len(workers)} {'worker' if len(workers) == 1 else 'workers'}"
    ownerless = [row.queue for row in rows if row.owner is None]
    if not ownerless:
        return Check("workers", "ok", f"{counted}; every partition has an owner")
    text = f"{counted}, but no owner for {', '.join(ownerless[:5])}{' …' if len(ownerless) > 5 else ''}"
    if all(worker.pinned for worker in workers):
        fix = f"All workers are pinned to other partitions: start one with -Q {names.group}"
    elif all(worker.draining or worker.pinned for worker in workers):
        fix = "The workers are being drained: start another one, or undrain one"
    else:
        fix = "Run this again in a few seconds: the partitions may be moving to a new owner"
    return Check("workers", "bad", f"{text}. {fix}")


def _libraries() -> Iterator[Check]:
    old, installed = [], []
    for name, least in LIBRARIES.items():
        found = version(name)
        installed.append(f"{name} {found}")
        if tuple(int(part) for part in found.split(".")[: len(least)] if part.isdigit()) < least:
            old.append(f"{name} {'.'.join(map(str, least))}")
    if old:
        yield Check("libraries", "bad", f"{', '.join(installed)}. Upgrade to at least {', '.join(old)}")
    else:
        yield Check("libraries", "ok", ", ".join(installed))


def _configured(client: redis.Redis, name: str) -> str | None:
    try:
        answer = cast(dict[str, str], client.config_get(name))
    except redis.ResponseError:
        return None
    return answer.get(name)
