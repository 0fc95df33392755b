"""Findings about a server that does not meet the requirements, each with its fix."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from celery_partitions.store.server import Finding, look_at_server
from tests.support.server import RedisServer
from tests.support.wait import wait_until

Factory = Callable[..., RedisServer]


def findings(server: RedisServer) -> list[Finding]:
    with server.client() as client:
        return look_at_server(client)


def test_a_server_that_keeps_its_data_and_evicts_nothing_has_no_findings(server_factory: Factory) -> None:
    assert findings(server_factory(appendonly=True)) == []


def test_snapshots_alone_cause_no_warning(server_factory: Factory) -> None:
    assert findings(server_factory(config={"save": "3600 1"})) == []


def test_missing_persistence_is_a_warning_with_the_fix(server_factory: Factory) -> None:
    (found,) = findings(server_factory())
    assert not found.refuse
    assert "persistence is off" in found.text and "appendonly yes" in found.text


@pytest.mark.parametrize("policy", ["allkeys-lru", "allkeys-random"])
def test_a_server_that_may_evict_queues_and_states_is_refused(server_factory: Factory, policy: str) -> None:
    server = server_factory(appendonly=True, config={"maxmemory-policy": policy, "maxmemory": "100mb"})
    (found,) = findings(server)
    assert found.refuse
    assert policy in found.text and "noeviction" in found.text


@pytest.mark.parametrize(("policy", "limit"), [("allkeys-lru", "0"), ("volatile-lru", "100mb"), ("volatile-ttl", "0")])
def test_a_policy_that_cannot_evict_our_keys_now_is_a_warning(
    server_factory: Factory, policy: str, limit: str
) -> None:
    server = server_factory(appendonly=True, config={"maxmemory-policy": policy, "maxmemory": limit})
    (found,) = findings(server)
    assert not found.refuse
    assert policy in found.text and "noeviction" in found.text


def test_a_replica_is_refused(server_factory: Factory) -> None:
    master = server_factory(appendonly=True)
    replica = server_factory(appendonly=True, config={"replicaof": f"{master.host} {master.port}"})
    wait_until(lambda: findings(replica))
    (found,) = findings(replica)
    assert found.refuse
    assert "replica" in found.text and "master" in found.text


def test_a_server_that_hides_its_configuration_has_no_findings(server_factory: Factory) -> None:
    server = server_factory()
    with server.client() as admin:
        admin.execute_command("ACL", "SETUSER", "limited", "on", ">secret", "~*", "&*", "+@all", "-config")
    with server.client(username="limited", password="secret") as client:
        assert look_at_server(client) == []
