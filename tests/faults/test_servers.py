"""The server pauses, restarts, dies and comes back, and loses its scripts. The history is what was sent."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until


def test_paused_past_lease_and_timeout(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url(), PARTITIONS_REDIS_TIMEOUT_SECONDS=0.5)
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    for processed in (200, 700):
        traffic.wait_processed(processed)
        logged = [worker.log().count("retrying until it") for worker in workers]
        own_server.pause()
        for worker, before in zip(workers, logged, strict=True):
            wait_until(lambda: worker.log().count("retrying until it") > before, message="not noticed")  # noqa: B023
        own_server.resume()
    traffic.check()
    assert all(worker.running for worker in workers)


def restart(server: RedisServer) -> None:
    server.restart()


def kill_and_start(server: RedisServer) -> None:
    server.kill()
    server.start()


@pytest.mark.parametrize("come_back", [restart, kill_and_start])
def test_the_server_ends_and_comes_back(
    own_server: RedisServer, make_live: Callable[..., LiveGroup], come_back: Callable[[RedisServer], None]
) -> None:
    live = make_live(own_server.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    for processed in (200, 700):
        traffic.wait_processed(processed)
        come_back(own_server)
        traffic.check_so_far()
    traffic.check()
    assert all(worker.running for worker in workers)


def test_scripts_are_forgotten(live: LiveGroup) -> None:
    traffic = Traffic(live)
    live.start_workers(2)
    traffic.send(1000)
    for processed in (100, 400, 700):
        traffic.wait_processed(processed)
        live.client.script_flush()
    traffic.check()


def test_gone_while_a_worker_is_stopping(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url())
    traffic = Traffic(live)
    worker = live.start_workers(1)[0]
    traffic.send(600)
    traffic.wait_processed(100)
    own_server.kill()
    worker.terminate()
    worker.wait()
    own_server.start()
    traffic.check_so_far()
    live.start_worker()
    traffic.check()


def test_what_a_server_lost_it_lost_of_queues_and_states_alike(
    own_server: RedisServer, make_live: Callable[..., LiveGroup]
) -> None:
    """After a power failure the end of the append-only file is gone. The workers know commits that the server has lost."""
    live = make_live(own_server.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    traffic.wait_processed(300)
    (log,) = own_server.directory.glob("appendonlydir/*.incr.aof")
    kept = log.stat().st_size
    traffic.wait_processed(600)
    own_server.kill()
    os.truncate(log, kept)
    own_server.start()
    traffic.check_so_far()
    traffic.check()
    assert all(worker.running for worker in workers)


def test_out_of_memory(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    """The server refuses commands that need memory. No lease can be renewed, but the owners continue and free memory."""
    live = make_live(own_server.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    traffic.wait_processed(200)
    live.client.config_set("maxmemory", "100kb")
    wait_until(
        lambda: all("maxmemory" in worker.log() for worker in workers), message="the workers did not notice"
    )
    traffic.check()
    live.client.config_set("maxmemory", "0")
    traffic.send(100)
    traffic.check()


def test_the_server_starts_after_the_worker(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url())
    traffic = Traffic(live)
    traffic.send(100)
    own_server.stop()
    worker = live.start_worker()
    wait_until(
        lambda: "Cannot connect" in worker.log() or "cannot use Redis yet" in worker.log() or not worker.running, timeout=60
    )
    own_server.start()
    traffic.check()
    assert worker.running


def test_the_server_refuses_a_worker_that_starts(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    """A worker asks for more than the state of its server when it starts. It waits for that, too."""
    live = make_live(own_server.url(), PARTITIONS_BEAT=1)
    traffic = Traffic(live)
    traffic.send(100)
    own_server.client().execute_command("ACL", "SETUSER", "default", "-hset")
    worker = live.start_worker()
    wait_until(lambda: "cannot use Redis yet" in worker.log() or not worker.running, timeout=60)
    own_server.client().execute_command("ACL", "SETUSER", "default", "+hset")
    traffic.check()
    assert worker.running
