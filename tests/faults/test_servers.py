"""The server pauses, restarts, dies and comes back, and forgets its scripts; the history is what was sent."""

from __future__ import annotations

from collections.abc import Callable

from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.server import RedisServer
from tests.support.wait import wait_until


def test_paused_past_lease_and_timeout(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url(), REDIS_TIMEOUT_SECONDS=0.5)
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    for processed in (200, 700):
        traffic.wait_processed(processed)
        said = [worker.log().count("does not answer") for worker in workers]
        own_server.pause()
        for worker, before in zip(workers, said, strict=True):
            wait_until(lambda: worker.log().count("does not answer") > before, timeout=30, message="not noticed")  # noqa: B023
        own_server.resume()
    traffic.check()
    assert all(worker.running for worker in workers)


def test_restarted(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    for processed in (200, 700):
        traffic.wait_processed(processed)
        own_server.restart()
        traffic.check_so_far()
    traffic.check()
    assert all(worker.running for worker in workers)


def test_killed_and_started_again(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url())
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1500)
    for processed in (200, 700):
        traffic.wait_processed(processed)
        own_server.kill()
        own_server.start()
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


def test_gone_while_a_worker_is_told_to_end(own_server: RedisServer, make_live: Callable[..., LiveGroup]) -> None:
    live = make_live(own_server.url())
    traffic = Traffic(live)
    worker = live.start_workers(1)[0]
    traffic.send(600)
    traffic.wait_processed(100)
    own_server.kill()
    worker.terminate()
    worker.wait(timeout=30)
    own_server.start()
    traffic.check_so_far()
    live.start_worker()
    traffic.check()
