"""Workers are killed, suspended, started and stopped while they work. The history is what was sent."""

from __future__ import annotations

import random

from tests.faults.traffic import Traffic
from tests.fundamentals.live import LiveGroup


def test_killed_at_random_moments(live: LiveGroup) -> None:
    traffic = Traffic(live)
    live.start_workers(3)
    for _ in range(5):
        before = len(traffic.sent)
        traffic.send(600)
        traffic.wait_processed(before + random.randrange(50, 550))
        random.choice([worker for worker in live.workers if worker.running]).kill()
        live.start_worker()
        traffic.check_so_far()
    traffic.check()


def test_all_killed_at_once(live: LiveGroup) -> None:
    traffic = Traffic(live)
    workers = live.start_workers(2)
    traffic.send(1000)
    traffic.wait_processed(200)
    for worker in workers:
        worker.kill()
    live.start_workers(2)
    traffic.check()


def test_stopped_past_the_lease_and_continued(live: LiveGroup) -> None:
    traffic = Traffic(live)
    workers = live.start_workers(3)
    for stopped in workers:
        before = len(traffic.sent)
        traffic.send(600)
        traffic.wait_processed(before + random.randrange(50, 300))
        stopped.stop_process()
        live.wait_owned(by=2)
        traffic.wait_processed(before + random.randrange(350, 550))
        stopped.continue_process()
        live.wait_owned(by=3)
    traffic.check()


def test_stopped_for_less_than_the_lease(live: LiveGroup) -> None:
    traffic = Traffic(live)
    first, second = live.start_workers(2, PARTITIONS_LEASE_SECONDS=20)
    owners = live.owners()
    traffic.send(1000)
    for worker, processed in ((first, 100), (second, 200), (first, 300)):
        traffic.wait_processed(processed)
        worker.stop_process()
        traffic.wait_processed(live.processed() + 20)  # the other worker continues
        worker.continue_process()
    traffic.check()
    assert live.owners() == owners


def test_workers_join_and_leave_while_they_work(live: LiveGroup) -> None:
    traffic = Traffic(live)
    first = live.start_worker(PARTITIONS_LEASE_SECONDS=20).wait_ready()
    traffic.send(1500)
    second, third = live.start_workers(2, PARTITIONS_LEASE_SECONDS=20)
    traffic.check_so_far()
    first.terminate()
    assert first.wait() == 0
    live.wait_owned(by=2)
    traffic.send(1000)
    second.interrupt()
    second.wait()
    live.wait_owned(by=1)
    traffic.send(500)
    third.quit()
    third.wait()
    traffic.check_so_far()
    live.start_worker()
    traffic.check()
