"""The number of partitions changes while workers work and are killed, and while producers still use another number."""

from __future__ import annotations

import random

from celery_partitions.admin.resize import Resize, read_progress
from celery_partitions.store.topology import read_topology
from tests.faults.traffic import Traffic
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.support.environment import PARTITIONS
from tests.support.wait import wait_until


def learn(live: LiveGroup) -> None:
    """The producer learns of a resize."""
    live.group.follow(read_topology(live.client, live.names, PARTITIONS))


def wait_moved(live: LiveGroup) -> None:
    wait_until(
        lambda: read_progress(live.client, live.names, PARTITIONS).state != "moving", PATIENCE_SECONDS, message="keys have not moved"
    )


def test_killed_during_resizes(live: LiveGroup) -> None:
    traffic, resize = Traffic(live), Resize(live.client, live.names, PARTITIONS)
    live.start_workers(2)
    traffic.send(300)
    for number in (3 * PARTITIONS, PARTITIONS):
        resize.begin(number, by="test")
        traffic.send(300)  # for the number before
        random.choice([worker for worker in live.workers if worker.running]).kill()
        live.start_worker()
        learn(live)
        traffic.send(300)
        wait_moved(live)
        learn(live)
        traffic.check_so_far()
        live.wait_drained()
        wait_until(lambda number=number: resize.finish(by="test", said=str(number)), PATIENCE_SECONDS, message="not finished")  # type: ignore[misc]
    traffic.send(100)
    traffic.check()


def test_aborted_while_the_keys_move(live: LiveGroup) -> None:
    traffic, resize = Traffic(live), Resize(live.client, live.names, PARTITIONS)
    live.start_workers(2)
    traffic.send(300)
    resize.begin(2 * PARTITIONS, by="test")
    learn(live)
    traffic.send(200)
    resize.abort(by="test")
    traffic.send(200)
    learn(live)
    traffic.send(200)
    wait_moved(live)
    traffic.check()
    assert live.group.topology.partitions == PARTITIONS
