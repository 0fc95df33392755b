"""A cluster with replicas: what a commit sends to another server waits for a replica, and is sent again to a server that lost it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from celery_partitions.store.servers import Servers
from tests.faults import engines
from tests.fundamentals.application import Sale, Step, record, sell
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.cluster import RedisCluster
from tests.support.server import RedisServer
from tests.support.wait import wait_until

ENV = {"PARTITIONS": 6, "PARTITIONS_LEASE_SECONDS": 5, "PARTITIONS_REDIS_TIMEOUT_SECONDS": 3}
#: Longer than a hop without replicas takes, on a busy machine too; shorter than a cluster takes to give up a replica (`NODE_TIMEOUT`).
HELD_SECONDS = 5.0
NODE_TIMEOUT = "60000"
#: An engine without this rule fails the test.
BROKEN = pytest.mark.xfail(raises=AssertionError, strict=True)


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    with RedisCluster(replicas=1, **{"cluster-node-timeout": NODE_TIMEOUT}) as cluster:
        wait_until(lambda: all(names_replicas(cluster, server) for server in cluster.primaries), PATIENCE_SECONDS, message="the cluster does not name its replicas")
        yield cluster


def names_replicas(cluster: RedisCluster, server: RedisServer) -> bool:
    """Whether a server's map names each primary's replica. It does when it has heard of what the replica has."""
    return all(len(row) > 3 for row in cluster.ask(server, "CLUSTER", "SLOTS"))


@pytest.fixture
def make_live(cluster: RedisCluster, tmp_path: Path) -> Iterator[Callable[..., LiveGroup]]:
    with ExitStack() as stack:

        def make(**env: object) -> LiveGroup:
            control = stack.enter_context(RedisServer())
            with cluster.client() as client:
                client.flushall(target_nodes=client.PRIMARIES)
            return stack.enter_context(LiveGroup(control.url(), tmp_path, **{**ENV, **env}, PARTITIONS_URL=cluster.url()))

        yield make


def two_keys(live: LiveGroup) -> tuple[str, str]:
    """Keys of partitions on different servers."""
    at = {key: live.client.address(live.names.queue(str(live.group.topology.partition_of(key)))) for key in (f"k{n}-total" for n in range(40))}
    first = next(iter(at))
    return first, next(key for key in at if at[key] != at[first])


@pytest.mark.parametrize("engine", [{}, pytest.param({"IGNORE_REPLICAS_OF": "source"}, marks=BROKEN)], ids=["sound", "broken"])
def test_what_is_sent_waits_for_a_replica(cluster: RedisCluster, make_live: Callable[..., LiveGroup], engine: dict[str, str]) -> None:
    live = make_live()
    source, target = two_keys(live)
    worker = live.start_worker(module=engines.__name__, **engine).wait_ready()
    live.send(sell, [Sale(source, 0, fails=False, forward_to=target)])
    wait_until(lambda: live.numbers_of(sell, target) == [0], PATIENCE_SECONDS, message="a hop does not arrive")
    for replica in cluster.replicas:
        replica.pause()
    try:
        live.send(sell, [Sale(source, number, fails=False, forward_to=target) for number in range(1, 20)])
        wait_until(lambda: live.numbers_of(sell, source) == list(range(20)), PATIENCE_SECONDS, message="the source itself waits")
        until = time.monotonic() + HELD_SECONDS
        while time.monotonic() < until:  # other messages go on meanwhile
            live.send(record, [Step("other", 1)])
            assert live.numbers_of(sell, target) == [0]
        assert "have a commit after" in worker.log()
    finally:
        for replica in cluster.replicas:
            replica.resume()
    wait_until(lambda: live.numbers_of(sell, target) == list(range(20)), PATIENCE_SECONDS, message="what waited is not sent")
    assert "in time again" in worker.log()


@pytest.mark.parametrize("setting", [0, None])
def test_where_nothing_waits(cluster: RedisCluster, make_live: Callable[..., LiveGroup], setting: int | None) -> None:
    """0 turns it off; and what stays on its server waits for nobody."""
    live = make_live(**({} if setting is None else {"PARTITIONS_WAIT_REPLICAS": setting}))
    source, target = two_keys(live)
    (worker,) = live.start_workers(1)
    for replica in cluster.replicas:
        replica.pause()
    try:
        if setting == 0:
            live.send(sell, [Sale(source, 0, fails=False, forward_to=target)])
            wait_until(lambda: live.numbers_of(sell, target) == [0], PATIENCE_SECONDS, message="a hop does not arrive")
        live.send(record, [Step(f"key-{number}", 1) for number in range(20)])
        wait_until(lambda: all(live.numbers_of(record, f"key-{number}") == [1] for number in range(20)), PATIENCE_SECONDS)
        assert setting is None or "have a commit after" not in worker.log()
    finally:
        for replica in cluster.replicas:
            replica.resume()


@pytest.mark.parametrize("engine", [{}, pytest.param({"IGNORE_REPLICAS_OF": "target"}, marks=BROKEN)], ids=["sound", "broken"])
def test_a_target_that_lost_entries_gets_them_again(cluster: RedisCluster, make_live: Callable[..., LiveGroup], engine: dict[str, str]) -> None:
    """What a failover to an older copy does to a target: its queue, states and `received` go back together."""
    live = make_live()
    assert isinstance(live.client, Servers)
    source, target = two_keys(live)
    worker = live.start_worker(module=engines.__name__, **engine).wait_ready()
    partition = str(live.group.topology.partition_of(target))
    live.send(sell, [Sale(source, 0, fails=False, forward_to=target)])
    wait_until(lambda: live.numbers_of(sell, target) == [0], PATIENCE_SECONDS)
    server = next(one for one in cluster.primaries if live.client.address(live.names.queue(partition)).endswith(f":{one.port}"))
    replica = cluster.replicas[cluster.primaries.index(server)]
    with server.client() as client, replica.client() as copy:
        wait_until(lambda: not live.client.exists(live.names.outbox(str(live.group.topology.partition_of(source)))), PATIENCE_SECONDS)
        keys = [key for key in client.keys("*") if b"{partition." + partition.encode() + b"}" in key]
        before = {key: client.dump(key) for key in keys}
        copy.config_set("replica-serve-stale-data", "yes")
        replica.pause()  # nothing more is kept from now on
        live.send(sell, [Sale(source, 1, fails=False, forward_to=target)])
        wait_until(lambda: live.numbers_of(sell, source) == [0, 1], PATIENCE_SECONDS)
        wait_until(lambda: live.numbers_of(sell, target) == [0, 1], PATIENCE_SECONDS, message="a hop does not arrive")
        if engine:
            wait_until(lambda: not live.client.exists(live.names.outbox(str(live.group.topology.partition_of(source)))), PATIENCE_SECONDS)
        token = client.hget(live.names.meta(partition), "token")
        with client.pipeline() as pipe:
            for key in client.keys("*"):
                if b"{partition." + partition.encode() + b"}" in key:
                    pipe.delete(key)
            for key, value in before.items():
                pipe.restore(key, 0, value)  # type: ignore[arg-type]
            pipe.hset(live.names.meta(partition), "token", token)  # type: ignore[arg-type]
            pipe.execute()
        assert live.numbers_of(sell, target) == [0]
        replica.resume()
    wait_until(lambda: live.numbers_of(sell, target) == [0, 1], HELD_SECONDS if engine else PATIENCE_SECONDS, message="what the target lost is not sent again")
    live.send(sell, [Sale(source, 2, fails=False, forward_to=target)])
    wait_until(lambda: live.numbers_of(sell, target) == [0, 1, 2], PATIENCE_SECONDS)
    assert worker.running
