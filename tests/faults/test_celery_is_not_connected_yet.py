"""The loop reaches the server before Celery's own consumer does, which connects separately and waits longer after each failure."""

from __future__ import annotations

from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

#: Only kombu sends this, when Celery's consumer declares its queues.
CELERY_CONNECTS = b"_kombu.binding.celery"


def test_a_plain_task_runs_nevertheless(live: LiveGroup, proxy: Proxy) -> None:
    cut = proxy.cut_before_request(CELERY_CONNECTS, times=1_000_000)
    live.send_task("plain task witness", 7, queue="partition.2")
    worker = live.start_worker(REDIS_URL=proxy.url())
    live.wait_drained()
    assert live.dead_letters() == []
    assert [line.partition(":")[2] for line in live.witnessed()] == ["7"]
    assert cut.fired
    assert not worker.is_ready()  # else Celery's consumer was connected, and the test proves nothing
    proxy.forgive()
    wait_until(worker.is_ready)
