"""Peeks of a loop without its thread: if the partition is not as its last commit left it, the loop drops what it has in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from celery_partitions.store.leases import balance
from celery_partitions.worker.loop import PartitionLoop
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.partition_state import State
from celery_partitions.worker.parts import worker_parts
from celery_partitions.worker.plain_tasks import PlainTaskRun
from celery_partitions.worker.reports import Reports
from tests.fundamentals.application import Step, record
from tests.fundamentals.live import LiveGroup
from tests.worker.by_hand import loop_by_hand


def no_task(raw: bytes) -> PlainTaskRun:
    raise AssertionError(f"a plain task: {raw!r}")


@pytest.fixture
def loop(make_live: Callable[..., LiveGroup]) -> Iterator[PartitionLoop]:
    """The loop of a worker that owns the only partition, in which one message was applied."""
    live = make_live(PARTITIONS=1)
    reports = Reports(live.app, "by-hand", 0, lambda: False, ())
    parts = worker_parts(live.installation, "by-hand/1", reports, no_task, (), node="by-hand")
    loop = PartitionLoop(live.installation, "by-hand/1", parts)
    loop.follow(balance(loop.client, live.names, "by-hand/1", lease_seconds=60, partitions=1))
    loop.holdings.take_up_share()
    live.send(record, [Step("key", 0)])
    work(loop)
    assert cached(loop) == [0]
    yield loop
    loop.waiting.destroy()
    reports.close()
    loop.client.close()


def owned_of(loop: PartitionLoop) -> OwnedPartition:
    return loop.owned_partitions["0"]


def work(loop: PartitionLoop) -> None:
    loop.work(owned_of(loop))
    loop.commits.settle()


def cached(loop: PartitionLoop) -> list[int] | None:
    slot = owned_of(loop).cache.young.get("record", {}).get("key")
    return None if slot is None else slot.state.numbers  # type: ignore[union-attr]


def test_states_are_kept_if_nothing_has_changed(loop: PartitionLoop) -> None:
    owned_of(loop).look_again()
    work(loop)
    assert cached(loop) == [0]


def test_a_server_that_lost_the_last_commit(loop: PartitionLoop) -> None:
    """The message of that commit is in the queue again, and its state is the previous one. It is applied once."""
    owned, client, names = owned_of(loop), loop.client, loop.names
    client.hincrby(names.meta("0"), "commit_number", -1)
    client.hdel(names.states("0", "record"), "key")
    owned.look_again()
    work(loop)
    assert cached(loop) is None


def test_an_operator_changed_a_state_and_the_peek_came_before_the_notification(loop: PartitionLoop) -> None:
    loop.installation.group.states.forget(loop.installation.computations["record"], "key")
    owned_of(loop).look_again()
    work(loop)
    assert cached(loop) is None


def test_the_same_if_the_peek_is_for_a_delayed_message(loop: PartitionLoop) -> None:
    """The turn does not read the queue, because messages of parked keys must be loaded first."""
    owned = owned_of(loop)
    loop.installation.group.states.forget(loop.installation.computations["record"], "key")
    owned.next_due = owned.server_now()
    assert loop.take_batch(owned) is None
    assert cached(loop) is None
    assert owned.state is State.PEEKED


def test_all_partitions_share_one_cache_of_keys(make_live: Callable[..., LiveGroup]) -> None:
    """It is bounded for the worker, not once for each of its partitions."""
    live = make_live(PARTITIONS=4)
    with loop_by_hand(live) as loop:
        live.send(record, [Step(f"key-{number}", 0) for number in range(20)])
        loop.look_again()
        loop.take_turns()
        caches = {id(owned.reading.places) for owned in loop.owned_partitions.values() if owned.reading is not None}
        assert len(caches) == 1
        assert [len(one) for one in loop.reader._places.values()] == [20]
