"""Connections break at the worst moments. Each commit is written exactly once."""

from __future__ import annotations

import random

from tests.faults.scenarios import COMMIT
from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

#: A worker that leaves while 1,000 messages wait nearly always commits its batch.
ATTEMPTS = 10


def test_cut_before_commits_arrive_and_before_their_replies(live: LiveGroup, proxy: Proxy) -> None:
    traffic = Traffic(live)
    live.start_workers(2, REDIS_URL=proxy.url())
    for _ in range(3):
        lost_request = proxy.cut_before_request(COMMIT)
        lost_reply = proxy.cut_before_reply(COMMIT)
        traffic.send(300)
        wait_until(lambda: lost_request.fired and lost_reply.fired, message="no commit was cut")  # noqa: B023
    traffic.check()


def test_the_reply_is_lost_repeatedly(live: LiveGroup, proxy: Proxy) -> None:
    traffic = Traffic(live)
    live.start_workers(1, REDIS_URL=proxy.url())
    fault = proxy.cut_before_reply(COMMIT, times=4)
    traffic.send(100)
    traffic.check()
    assert fault.fired == 4


def test_all_connections_cut_at_random_moments(live: LiveGroup, proxy: Proxy) -> None:
    traffic = Traffic(live)
    live.start_workers(2, REDIS_URL=proxy.url())
    for _ in range(5):
        before = len(traffic.sent)
        traffic.send(400)
        traffic.wait_processed(before + random.randrange(20, 380))
        proxy.cut()
    traffic.check()


def test_cut_off_past_the_lease_while_another_takes_over(live: LiveGroup, proxy: Proxy) -> None:
    traffic = Traffic(live)
    cut_off = live.start_worker(REDIS_URL=proxy.url()).wait_ready()
    live.start_workers(1)
    traffic.send(1000)
    traffic.wait_processed(100)
    proxy.freeze()
    live.wait_owned(by=1)
    traffic.wait_processed(600)
    proxy.thaw()
    live.wait_owned(by=2)
    traffic.send(200)
    traffic.check()
    assert cut_off.running


def test_the_connection_of_a_leaving_worker_is_cut_before_its_last_reply(live: LiveGroup, proxy: Proxy) -> None:
    """Whether a worker still commits after SIGTERM depends on timing, so workers leave until one of them has committed."""
    traffic = Traffic(live)
    for _ in range(ATTEMPTS):
        leaving = live.start_worker(REDIS_URL=proxy.url()).wait_ready()
        before = len(traffic.sent)
        traffic.send(1000)
        traffic.wait_processed(before + 100)
        leaving.stop_process()
        fault = proxy.cut_before_reply(COMMIT)
        leaving.terminate()
        leaving.continue_process()
        leaving.wait()
        traffic.check_so_far()
        live.start_worker()
        traffic.check()
        live.workers[-1].kill()
        if fault.fired:
            return
        fault.cancel()
    raise AssertionError(f"none of {ATTEMPTS} workers committed after SIGTERM")
