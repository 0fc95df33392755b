"""A worker that starts while its server has a problem waits, logs it, and does not exit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from celery_partitions.admin.doctor import CONNECTIONS_PER_WORKER
from tests.faults.traffic import Traffic
from tests.fundamentals import application
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

MakeLive = Callable[..., LiveGroup]


def test_the_server_is_silent_and_closes_while_celery_mingles(live: LiveGroup, proxy: Proxy, tmp_path: Path) -> None:
    env = {**live.env, "REDIS_URL": proxy.url()}
    with WorkerProcess(application.__name__, "--without-gossip", directory=tmp_path, env=env) as worker:
        wait_until(lambda: "mingle: searching" in worker.log(), PATIENCE_SECONDS, every=0.002)
        proxy.freeze()
        proxy.cut()
        proxy.thaw()
        worker.wait_ready(PATIENCE_SECONDS)
        live.send(record, [Step("key", 1)])
        wait_until(lambda: live.numbers_of(record, "key") == [1], PATIENCE_SECONDS)
        assert worker.running


def test_the_server_stands_still_while_celery_mingles_and_its_connections_close_again_and_again(
    own_server: RedisServer, own_proxy: Proxy, make_live: MakeLive, tmp_path: Path
) -> None:
    live = make_live(own_server.url())
    env = {**live.env, "REDIS_URL": own_proxy.url()}
    with WorkerProcess(application.__name__, "--without-gossip", directory=tmp_path, env=env) as worker:
        wait_until(lambda: "mingle: searching" in worker.log(), PATIENCE_SECONDS, every=0.002)
        own_server.pause()
        for _ in range(3):
            own_proxy.cut()
            wait_until(lambda: own_proxy.connection_count > 0 or not worker.running, PATIENCE_SECONDS)
        own_server.resume()
        worker.wait_ready(PATIENCE_SECONDS)
        live.send(record, [Step("key", 1)])
        wait_until(lambda: live.numbers_of(record, "key") == [1], PATIENCE_SECONDS)
        assert worker.running


def test_a_new_group_on_a_server_that_refuses_writes(server_factory: Callable[..., RedisServer], make_live: MakeLive) -> None:
    """Redis answers MISCONF to writes while it cannot save to disk."""
    server = server_factory(config={"save": "3600 1", "enable-protected-configs": "yes"})
    live = make_live(server.url())
    directory = server.directory / "no disk"
    live.client.set("a key", "something to save")
    directory.mkdir()
    live.client.config_set("dir", str(directory))
    directory.rmdir()
    try:
        live.client.bgsave()
    finally:
        wait_until(lambda: live.client.info("persistence")["rdb_last_bgsave_status"] == "err", PATIENCE_SECONDS)
    worker = live.start_worker()
    wait_until(lambda: "MISCONF" in worker.log() or not worker.running, PATIENCE_SECONDS)
    directory.mkdir()
    live.client.config_set("dir", str(directory))
    live.client.bgsave()
    worker.wait_ready(PATIENCE_SECONDS)
    live.send(record, [Step("key", 1)])
    wait_until(lambda: live.numbers_of(record, "key") == [1], PATIENCE_SECONDS)
    assert worker.log().count("MISCONF") < 5


def test_two_workers_of_sixteen_partitions_with_twenty_connections(
    server_factory: Callable[..., RedisServer], make_live: MakeLive
) -> None:
    live = make_live(server_factory(config={"maxclients": "20"}).url(), PARTITIONS=16)
    traffic = Traffic(live)  # later the test itself gets no more connections
    traffic.send(600)
    workers = [live.start_worker().wait_ready(), live.start_worker()]
    wait_until(lambda: "max number of clients" in workers[1].log(), PATIENCE_SECONDS)
    assert all(worker.running for worker in workers)
    # The second worker takes no partitions while its loop lacks connections, whatever else it has.
    traffic.check()
    workers[0].terminate()
    traffic.send(100)
    workers[1].wait_ready(PATIENCE_SECONDS)
    traffic.check()


def test_a_worker_waits_for_messages_of_all_its_partitions_on_one_connection(redis_url: str, make_live: MakeLive) -> None:
    live = make_live(redis_url, PARTITIONS=16)
    before = len(live.client.client_list())
    live.start_workers(1)
    traffic = Traffic(live)
    traffic.send(100)
    traffic.check()
    assert len(live.client.client_list()) <= before + CONNECTIONS_PER_WORKER
    tracking = [row for row in live.client.client_list() if "t" in row["flags"]]
    assert len(tracking) == 1
    assert not [row for row in live.client.client_list() if row["cmd"] == "blmove"]
