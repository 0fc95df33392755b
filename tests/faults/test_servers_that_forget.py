"""The server comes back empty, or as it was some time ago; nothing that a worker still knew of it gets into it."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import pytest

from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.wait import wait_until


@pytest.mark.parametrize("busy", [False, True])
def test_restarted_empty(own_server: RedisServer, make_live: Callable[..., LiveGroup], busy: bool) -> None:
    """Partitions change hands first: their holders' tokens, and those that a worker gave up, are then given by no new server."""
    live = make_live(own_server.url())
    live.start_workers(1)
    live.start_workers(1)
    before = Traffic(live)
    before.send(1500 if busy else 300)
    before.wait_processed(300)
    own_server.kill()
    shutil.rmtree(own_server.directory / "appendonlydir")
    own_server.start()
    assert live.client.dbsize() < 10
    after = Traffic(live)
    after.send(300)
    live.wait_owned(by=2)
    after.check()
    assert all(worker.running for worker in live.workers)
    assert live.client.hget(live.names.group_meta, "partitions") == b"4"
    assert sum(row.keys for row in live.group.status()) == 16, "the computations are not known any more"


def test_back_to_an_older_snapshot(server_factory: Callable[..., RedisServer], make_live: Callable[..., LiveGroup]) -> None:
    """Of snapshots alone the time since the last is lost, of queues and states alike, and of who holds what."""
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


def test_a_worker_holds_nothing_of_an_emptied_server_that_has_another_n_now(
    own_server: RedisServer, own_proxy: Proxy, make_live: Callable[..., LiveGroup]
) -> None:
    live = make_live(own_server.url())
    (worker,) = live.start_workers(1, REDIS_URL=own_proxy.url())
    own_proxy.refuse()
    own_proxy.cut()
    live.client.flushall()
    live.client.hset(live.names.group_meta, "partitions", 3)
    own_proxy.accept()
    wait_until(lambda: "has 3 partitions" in worker.log(), timeout=30, message="the worker did not say so")
    assert live.client.hgetall(live.names.owners) == {}
    assert worker.running
