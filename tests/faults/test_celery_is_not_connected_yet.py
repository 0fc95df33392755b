"""The loop reaches the server while Celery's own consumer does not yet: it connects by itself, and waits longer each time."""

from __future__ import annotations

from tests.fundamentals.live import LiveGroup
from tests.support.proxy import Proxy
from tests.support.wait import wait_until

#: kombu asks so when it connects; nothing of ours does.
CELERY_CONNECTS = b"PING"


def test_an_ordinary_task_runs_all_the_same(live: LiveGroup, proxy: Proxy) -> None:
    cut = proxy.cut_before_request(CELERY_CONNECTS, times=2)
    live.send_task("plain task witness", 7, queue="partition.2")
    worker = live.start_worker(REDIS_URL=proxy.url())
    live.wait_drained()
    assert live.dead_letters() == []
    assert [line.partition(":")[2] for line in live.witnessed()] == ["7"]
    assert cut.fired
    assert not worker.is_ready()  # else it was not before Celery's consumer, and proves nothing
    wait_until(worker.is_ready, timeout=30)
