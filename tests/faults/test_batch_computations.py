"""Workers that are killed, or hang, while messages of batch computations gather or are called: nothing is lost, and every effect happens once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from celery_partitions import StateComputation
from tests.fundamentals.live import LiveGroup
from tests.support.applications import batches
from tests.support.applications.batches import GIVEN, Page, index, index_in_time, index_later
from tests.support.wait import wait_until
from tests.support.worker import WorkerProcess

KINDS = (index, index_later)


@pytest.fixture
def live(redis_url: str, make_live: Callable[..., LiveGroup]) -> LiveGroup:
    return make_live(redis_url, PARTITIONS=2, PARTITIONS_RETRY_ATTEMPTS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.01, PARTITIONS_MAX_WORKER_CRASHES=3)


def start(live: LiveGroup) -> WorkerProcess:
    worker = live.start_worker(module=batches.__name__)
    worker.wait_ready()
    return worker


def is_drained(live: LiveGroup) -> bool:
    return not any(row.length or row.parked or row.running for row in live.group.status())


def judge(live: LiveGroup, computation: StateComputation[Any, Any, Any], keys: int, count: int, without: int | None = None) -> None:
    wanted = {f"k{key}": [number for number in range(key, count, keys) if number != without] for key in range(keys)}
    assert live.numbers(computation) == wanted


def test_killed_again_and_again(live: LiveGroup) -> None:
    """Also in a gather, whose time comes under the next owner."""
    for round in range(3):
        worker = start(live)
        for computation in KINDS:
            live.send(computation, [Page(f"k{number % 7}", number) for number in range(round * 1000, round * 1000 + 1000)])
        seen = live.client.llen(GIVEN)
        wait_until(lambda seen=seen: live.client.llen(GIVEN) > seen + 20)  # type: ignore[misc]
        worker.kill()
    start(live)
    live.wait_drained()
    for computation in KINDS:
        judge(live, computation, 7, 3000)
    assert live.processed() == 6000
    assert live.dead_letters() == []


def test_a_message_that_kills_its_worker_is_found_in_its_batch(live: LiveGroup) -> None:
    for computation in KINDS:
        live.send(computation, [Page(f"k{number % 3}", number, "kills" if number == 19 else "") for number in range(33)])
    for _ in range(20):
        worker = live.start_worker(module=batches.__name__)  # it may die before it is ready
        wait_until(lambda worker=worker: not worker.running or is_drained(live))  # type: ignore[misc]
        if worker.running:
            break
    live.wait_drained()
    for computation in KINDS:
        judge(live, computation, 3, 33, without=19)
    assert [(dead.reason, dead.key) for dead in live.dead_letters()] == [("kills-the-worker", "k1")] * 2


def test_a_message_that_hangs_is_found_in_its_batch(live: LiveGroup) -> None:
    live.start_worker(module=batches.__name__, PARTITIONS_RETRY_ATTEMPTS=0).wait_ready()
    live.send(index_in_time, [Page("k0", number, "hangs" if number == 1 else "") for number in range(3)])
    live.wait_drained()
    judge(live, index_in_time, 1, 3, without=1)
    (dead,) = live.dead_letters()
    assert "time limit" in dead.error
