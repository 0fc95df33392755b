"""The server comes back empty, or with an older snapshot. Nothing from a worker's memory may get into it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.faults.traffic import Traffic
from tests.fundamentals.application import sleep
from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.wait import wait_until


@pytest.mark.parametrize("busy", [False, True])
def test_restarted_empty(own_server: RedisServer, make_live: Callable[..., LiveGroup], busy: bool) -> None:
    """Partitions first change owners, so a new server will not issue the fencing tokens that workers hold or gave up."""
    live = make_live(own_server.url())
    live.start_workers(1)
    live.start_workers(1)
    before = Traffic(live)
    before.send(1500 if busy else 300)
    before.wait_processed(300)
    own_server.kill()
    shutil.rmtree(own_server.directory / "appendonlydir")
    own_server.start()
    assert live.numbers(sleep) == {}
    after = Traffic(live)
    after.send(300)
    live.wait_owned(by=2)
    after.check()
    assert all(worker.running for worker in live.workers)
    assert live.client.hget(live.names.group_meta, "partitions") == b"4"
    assert sum(row.keys for row in live.group.status()) == 16, "the computations are no longer known"


def test_back_to_an_older_snapshot(server_factory: Callable[..., RedisServer], make_live: Callable[..., LiveGroup]) -> None:
    """With snapshots only, everything since the last one is lost: queues, states and leases alike."""
    server = server_factory(config={"save": "3600 1000000"})
    live = make_live(server.url())
    live.start_workers(1)
    traffic = Traffic(live)
    traffic.send(1500)
    traffic.wait_processed(200)
    live.client.save()
    live.start_workers(1)
    traffic.wait_processed(600)
    server.kill()
    server.start()
    traffic.check_so_far()
    traffic.check()
    live.wait_owned(by=2)
    assert all(worker.running for worker in live.workers)


def test_a_worker_owns_nothing_of_an_emptied_server_with_a_different_n(
    own_server: RedisServer, own_proxy: Proxy, make_live: Callable[..., LiveGroup]
) -> None:
    live = make_live(own_server.url())
    (worker,) = live.start_workers(1, REDIS_URL=own_proxy.url())
    own_proxy.refuse()
    own_proxy.cut()
    live.client.flushall()
    live.client.hset(live.names.group_meta, "partitions", 3)
    own_proxy.accept()
    wait_until(lambda: "has 3 partitions" in worker.log(), message="the worker did not log it")
    assert live.client.hgetall(live.names.owners) == {}
    assert worker.running
