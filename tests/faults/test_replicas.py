"""PARTITIONS_WAIT_REPLICAS: a commit waits until replicas have it, but not longer than the configured time."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

import pytest

from celery_partitions.store.commits import Commit, CommitStore
from celery_partitions.store.leases import Lease, balance
from celery_partitions.store.names import Names
from celery_partitions.store.replicas import HOLD_SECONDS, Replicas
from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import SettingsError
from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until

NAMES = Names("partition")


@pytest.fixture
def pair(server_factory: Callable[..., RedisServer]) -> tuple[RedisServer, RedisServer]:
    """A master, and a replica that is in sync with it."""
    master = server_factory()
    replica = server_factory(config={"replicaof": f"{master.host} {master.port}"})
    with replica.client() as client:
        wait_until(lambda: client.info("replication").get("master_link_status") == "up")
    return master, replica


def commit(lease: Lease, commit_number: int) -> Commit:
    return Commit(lease, commit_number, None, None, 0, b"", b"", [["HINCRBY", NAMES.meta("0"), "processed", 1]], 0)


def commit_number_on(server: RedisServer) -> int:
    with server.client() as client:
        return int(client.hget(NAMES.meta("0"), "commit_number") or 0)  # type: ignore[arg-type]


def test_a_commit_is_answered_when_the_replica_has_it(pair: tuple[RedisServer, RedisServer]) -> None:
    master, replica = pair
    with master.client() as client:
        lease = Lease("0", balance(client, NAMES, "one", lease_seconds=60, partitions=1).owned["0"])
        store = CommitStore(client, NAMES, batch_messages=10, batch_bytes=1000, replicas=Replicas(1, 30_000))
        store.send(commit(lease, 0))
        for commit_number in (1, 2):
            replica.pause()
            resuming = threading.Timer(0.3, replica.resume)
            resuming.start()
            in_flight = store.begin(commit(lease, commit_number))
            assert store.finish(in_flight).status == "ok"
            assert commit_number_on(replica) == commit_number + 1
            resuming.join()
        client.script_flush()
        assert store.finish(store.begin(commit(lease, 3))).status == "ok"
        assert store.send(commit(lease, 3)).status == "already"
        assert commit_number_on(replica) == 4


def test_a_late_replica_is_logged_once_and_work_continues(
    pair: tuple[RedisServer, RedisServer], caplog: pytest.LogCaptureFixture
) -> None:
    master, replica = pair
    with master.client() as client, caplog.at_level(logging.WARNING):
        lease = Lease("0", balance(client, NAMES, "one", lease_seconds=60, partitions=1).owned["0"])
        store = CommitStore(client, NAMES, batch_messages=10, batch_bytes=1000, replicas=Replicas(1, 50))
        client.script_load("return 1")
        store.send(commit(lease, 0))
        replica.pause()
        for commit_number in (1, 2, 3):
            assert store.finish(store.begin(commit(lease, commit_number))).status == "ok"
        assert [record.levelname for record in caplog.records] == ["WARNING"]
        assert "only 0 of 1 replicas (PARTITIONS_WAIT_REPLICAS) have a commit after 50 ms" in caplog.text
        replica.resume()
        wait_until(lambda: commit_number_on(replica) == 4)
        store.replicas = Replicas(1, 30_000)
        store.replicas._behind[client] = 0.0
        assert store.finish(store.begin(commit(lease, 4))).status == "ok"
        assert "in time again" in caplog.text


def test_a_worker_waits_while_the_server_refuses_writes_without_its_replica(
    pair: tuple[RedisServer, RedisServer], make_live: Callable[..., LiveGroup]
) -> None:
    """The README's setting to stop instead of risking loss: min-replicas-to-write."""
    master, replica = pair
    live = make_live(master.url(), PARTITIONS_WAIT_REPLICAS=1, PARTITIONS_WAIT_MILLISECONDS=500)
    traffic = Traffic(live)
    (worker,) = live.start_workers(1)
    traffic.send(600)
    traffic.wait_processed(100)
    live.client.config_set("min-replicas-max-lag", 1)
    live.client.config_set("min-replicas-to-write", 1)
    replica.pause()
    wait_until(lambda: "NOREPLICAS" in worker.log() or "good slaves" in worker.log().lower())
    stopped_at = live.processed()
    assert stopped_at < 600
    replica.resume()
    traffic.check()
    assert worker.running


def test_waiting_longer_than_the_redis_timeout_is_refused() -> None:
    with pytest.raises(SettingsError, match="PARTITIONS_WAIT_MILLISECONDS=2000"):
        from_environment({"PARTITIONS_WAIT_REPLICAS": "1", "PARTITIONS_WAIT_MILLISECONDS": "2000", "PARTITIONS_REDIS_TIMEOUT_SECONDS": "2"})


def test_on_a_cluster_the_wait_fits_the_time_for_an_answer() -> None:
    servers = {"PARTITIONS_URL": "redis+cluster://127.0.0.1:1"}
    replicas = Replicas.of(from_environment({**servers, "PARTITIONS_REDIS_TIMEOUT_SECONDS": "1"}))
    assert replicas is not None and (replicas.wanted, replicas.milliseconds) == (None, 500)
    assert Replicas.of(from_environment({**servers, "PARTITIONS_WAIT_REPLICAS": "0"})) is None
    assert Replicas.of(from_environment({})) is None


def test_what_is_held_back_goes_on_after_a_while(pair: tuple[RedisServer, RedisServer]) -> None:
    master, replica = pair
    now = 0.0
    with master.client() as client:
        replicas = Replicas(1, 50, lambda: now)
        assert replicas.read(client, NAMES, "0", [("GET", "x")]) == ([None], True)
        replica.pause()
        assert replicas.read(client, NAMES, "0", [("GET", "x")]) == ([None], False)
        assert not replicas.may_look(client)
        assert not replicas.gave_up(client)
        now = HOLD_SECONDS + 1
        assert replicas.may_look(client)
        assert replicas.gave_up(client)
        replica.resume()
        wait_until(lambda: replicas.read(client, NAMES, "0", [])[1])
        assert not replicas.gave_up(client)
