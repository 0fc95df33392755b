"""If a worker's loop gets no connection while its lease keeper has one, others take its partitions over."""

from __future__ import annotations

from celery_partitions.store.scripts import script
from tests.faults.traffic import Traffic
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

#: More than any test needs.
ALWAYS = 1_000_000


def lose_the_loops_connections(proxy: Proxy) -> None:
    """Allow no new connection, and break each one that sends a commit or a peek. Those of lease keeper and Celery stay."""
    proxy.refuse()
    proxy.cut_before_request(script("commit").digest.encode(), ALWAYS)


def test_another_worker_takes_over_and_the_partitions_come_back_later(live: LiveGroup, proxy: Proxy) -> None:
    first = live.start_worker(REDIS_URL=proxy.url()).wait_ready()
    live.wait_owned(by=1)
    second = live.start_worker().wait_ready()
    live.wait_owned(by=2)
    traffic = Traffic(live)
    lose_the_loops_connections(proxy)
    traffic.send(200)
    traffic.check()
    assert len(set(live.owners().values())) == 1
    assert first.log().count("gives its partitions up") == 1
    assert first.log().count("Redis error (") == 1
    proxy.accept()
    proxy.forgive()
    live.wait_owned(by=2)
    traffic.send(200)
    traffic.check()
    assert first.log().count("Redis works again") == 1
    assert "has taken over" not in second.log()


def test_a_single_worker_continues_when_there_are_connections_again(live: LiveGroup, proxy: Proxy) -> None:
    worker = live.start_worker(REDIS_URL=proxy.url()).wait_ready()
    live.wait_owned(by=1)
    traffic = Traffic(live)
    lose_the_loops_connections(proxy)
    traffic.send(100)
    wait_until(lambda: "gives its partitions up" in worker.log(), PATIENCE_SECONDS)
    wait_until(lambda: set(live.owners().values()) == {None}, PATIENCE_SECONDS)
    proxy.accept()
    proxy.forgive()
    traffic.check()
    assert worker.running
