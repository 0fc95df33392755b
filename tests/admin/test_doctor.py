"""Each finding of the doctor, on a server that has the problem, and the fix that it names."""

from __future__ import annotations

import shutil
import ssl
from collections.abc import Callable
from typing import Any

import pytest
import redis

from celery_partitions.admin.doctor import (
    CONNECTIONS_PER_WORKER,
    Check,
    examine,
    judge_clients,
    judge_clock,
    judge_connection,
    judge_memory,
    judge_workers,
)
from celery_partitions.admin.known_flaws import describe_flaws
from celery_partitions.admin.permissions import is_local
from celery_partitions.admin.status import read_status
from celery_partitions.admin.workers import WorkerStatus
from celery_partitions.store.leases import balance
from celery_partitions.store.names import Names
from celery_partitions_config.settings import Settings
from tests.support.server import RedisServer
from tests.support.wait import wait_until

Factory = Callable[..., RedisServer]
NAMES = Names("partition")


def look(client: redis.Redis, **settings: Any) -> dict[str, Check]:
    return {check.subject: check for check in examine(Settings(partitions=4, **settings), client, NAMES)}


def of(server: RedisServer, **settings: Any) -> dict[str, Check]:
    with server.client() as client:
        return look(client, redis_url=server.url(), **settings)


def test_a_healthy_server(server_factory: Factory) -> None:
    server = server_factory(appendonly=True, appendfsync="always")
    with server.client() as client:
        balance(client, NAMES, "celery@host/1", lease_seconds=60, partitions=4)
    found = of(server, state_signing_keys=(b"0123456789abcdef",))
    with server.client() as client:
        is_flawed = describe_flaws(client.info("server")) is not None  # a distribution's server, perhaps
    assert found["flaws"].verdict == ("warn" if is_flawed else "ok")
    assert {check.verdict for name, check in found.items() if name != "flaws"} == {"ok"}, found
    assert "always" in found["fsync"].text and "signed (1 key)" in found["signing"].text


@pytest.mark.parametrize(
    ("config", "subject", "verdict", "fix"),
    [
        ({"maxmemory": "100mb", "maxmemory-policy": "allkeys-lru"}, "eviction", "bad", "noeviction"),
        ({"maxmemory-policy": "volatile-lru"}, "eviction", "warn", "noeviction"),
        ({}, "persistence", "warn", "appendonly yes"),
        ({"appendonly": "yes", "appendfsync": "no"}, "fsync", "warn", "appendfsync everysec"),
        ({"appendonly": "yes", "appendfsync": "everysec"}, "fsync", "ok", "last second"),
    ],
)
def test_a_badly_configured_server(
    server_factory: Factory, config: dict[str, str], subject: str, verdict: str, fix: str
) -> None:
    found = of(server_factory(config=config))[subject]
    assert found.verdict == verdict
    assert fix in found.text


def test_a_replica_that_a_url_names(server_factory: Factory) -> None:
    master = server_factory()
    replica = server_factory(config={"replicaof": f"{master.host} {master.port}"})
    assert of(replica)["role"].verdict == "bad"
    assert of(master, wait_replicas=2)["replicas"].verdict == "bad"
    wait_until(lambda: "1 connected" in of(master)["replicas"].text)
    assert of(master, wait_replicas=1)["replicas"].verdict == "ok"


def test_a_server_that_refuses_to_save(server_factory: Factory) -> None:
    server = server_factory(config={"save": "3600 1"})
    with server.client() as client:
        shutil.rmtree(server.directory)  # so the server cannot write there
        client.bgsave()
        wait_until(lambda: client.info("persistence")["rdb_last_bgsave_status"] == "err")
    assert of(server)["fsync"].verdict == "bad"


@pytest.mark.parametrize(
    ("skew", "verdict", "text"),
    [(0.2, "ok", "200 ms"), (5.0, "warn", "5.0 s behind"), (-5.0, "warn", "5.0 s ahead"), (-90.0, "bad", "NTP")],
)
def test_clocks(skew: float, verdict: str, text: str) -> None:
    found = judge_clock(skew)
    assert found.verdict == verdict
    assert text in found.text


@pytest.mark.parametrize(("used", "verdict"), [(50, "ok"), (80, "warn"), (95, "bad")])
@pytest.mark.parametrize("limit", ["maxmemory", "total_system_memory"])
def test_memory(used: int, verdict: str, limit: str) -> None:
    found = judge_memory({"used_memory": used * 2**20, limit: 100 * 2**20})
    assert found.verdict == verdict
    assert f"{used}%" in found.text


@pytest.mark.parametrize(
    ("used", "limit", "verdict"), [(5, 0, "ok"), (5, 10_000, "ok"), (84, 100, "ok"), (85, 100, "warn")]
)
def test_connections(used: int, limit: int, verdict: str) -> None:
    found = judge_clients({"connected_clients": used, "maxclients": limit})
    assert found.verdict == verdict
    assert str(CONNECTIONS_PER_WORKER) in found.text


def test_another_n(client: redis.Redis) -> None:
    assert "not set yet" in look(client)["partitions"].text
    client.hset(NAMES.group_meta, "partitions", 6)
    found = look(client)["partitions"]
    assert found.verdict == "bad"
    assert "PARTITIONS=6" in found.text


def worker(pinned: list[str], draining: bool = False) -> WorkerStatus:
    return WorkerStatus("celery@host", [], pinned, draining, 5.0)


def test_partitions_without_an_owner(client: redis.Redis) -> None:
    assert look(client)["workers"].verdict == "warn"
    balance(client, NAMES, "celery@host/1", lease_seconds=60, partitions=4, pins=("0", "1", "2", "3"))
    found = look(client)["workers"]
    assert found.verdict == "bad"
    assert "no owner for partition." in found.text and "-Q partition" in found.text
    rows = read_status(client, NAMES, 4)
    assert "drained" in judge_workers(rows, [worker([], draining=True)], NAMES).text
    assert "few seconds" in judge_workers(rows, [worker([])], NAMES).text
    balance(client, NAMES, "celery@host/2", lease_seconds=60, partitions=4)
    assert look(client)["workers"] == Check("workers", "ok", "2 workers; every partition has an owner")


@pytest.mark.parametrize(
    ("url", "local"),
    [
        ("redis://127.0.0.1/0", True),
        ("redis://localhost:6379", True),
        ("unix:///run/redis.sock", True),
        ("redis://[::1]:6379/0", True),
        ("sentinel://127.0.0.1:26379;sentinel://10.0.0.5:26379", False),
        ("redis://:secret@cache.example.org/0", False),
    ],
)
def test_which_servers_are_on_this_machine(url: str, local: bool) -> None:
    assert is_local(url) is local
    assert judge_connection(Settings(redis_url=url)).verdict == ("ok" if local else "warn")


def test_tls() -> None:
    url = "rediss://cache.example.org/0"
    assert judge_connection(Settings(redis_url=url)).verdict == "ok"
    assert judge_connection(Settings(redis_url=url, redis_tls_verify=False)).verdict == "warn"
    plain = url.replace("rediss", "redis")
    assert judge_connection(Settings(redis_url=plain, redis_tls_options=(("ssl_cert_reqs", ssl.CERT_NONE),))).verdict == "warn"
    assert judge_connection(Settings(redis_url=f"{plain}?ssl_cert_reqs=required")).verdict == "ok"


def test_a_user_without_a_workers_permissions(server_factory: Factory) -> None:
    server = server_factory()
    with server.client() as admin:
        rules = ("on", ">secret", "~partition*", "~{partition*", "&*", "+@all", "-zadd", "-lpush")
        admin.execute_command("ACL", "SETUSER", "limited", *rules)
        if "redis_version" in admin.info() and int(str(admin.info()["redis_version"]).split(".")[0]) < 7:
            pytest.skip("before Redis 7 a server cannot be asked what a user may do")
    with server.client(username="limited", password="secret") as client:
        found = look(client)["user"]
    assert found.verdict == "bad"
    assert "LPUSH, ZADD" in found.text


def test_a_user_who_may_not_run_scripts(server_factory: Factory) -> None:
    server = server_factory()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-eval")
    with server.client(username="limited", password="secret") as client:
        assert look(client)["scripts"].verdict == "bad"


def test_a_user_who_may_not_run_info_or_acl(server_factory: Factory) -> None:
    server = server_factory()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-info", "-acl", "-config")
    with server.client(username="limited", password="secret") as client:
        assert look(client)["server"].verdict == "bad"
        admin_rules = "+info"
        with server.client() as admin:
            admin.execute_command("ACL", "SETUSER", "limited", admin_rules)
        found = look(client)["user"]
        assert found.verdict == "ok" and "does not report" in found.text


def test_a_remote_server_without_a_password(client: redis.Redis) -> None:
    """The address in the URL decides. (The client of this test is local.)"""
    assert look(client, redis_url="redis://cache.example.org/0")["user"].verdict == "bad"
    assert look(client, redis_url="redis://127.0.0.1/0")["user"].verdict == "ok"
