"""Celery's own tools show the partitions, and several workers on one host work."""

from __future__ import annotations

from tests.fundamentals.application import Deed, witness
from tests.fundamentals.live import LiveGroup
from tests.support.wait import wait_until


def test_two_workers_on_one_host_have_two_node_names(live: LiveGroup) -> None:
    live.start_workers(2)
    answers = live.app.control.ping(timeout=60, limit=2)
    nodes = {node for answer in answers for node in answer}
    assert len(nodes) == 2
    assert nodes == set(live.owners().values())


def test_a_given_node_name_is_kept(live: LiveGroup) -> None:
    live.start_worker("-n", "mine@somewhere").wait_ready()
    assert live.app.control.ping(timeout=60, limit=1) == [{"mine@somewhere": {"ok": "pong"}}]


def test_inspection_lists_partitions_computations_and_counts(live: LiveGroup) -> None:
    live.start_workers(1)
    live.send(witness, [Deed("key", number) for number in range(3)])
    wait_until(lambda: live.processed() == 3)
    inspect = live.app.control.inspect(timeout=60, limit=1)
    (queues,) = inspect.active_queues().values()
    partitions = {queue["name"] for queue in queues}
    assert partitions == {"celery", *live.owners()}
    assert all(queue["exchange"]["name"] == queue["routing_key"] == queue["name"] for queue in queues)
    (registered,) = inspect.registered().values()
    assert {"witness", "record", "plain"} <= set(registered)
    (stats,) = inspect.stats().values()
    assert set(stats["partitions"]) == set(live.owners())
    assert stats["total"]["witness"] == 3


def test_a_worker_answers_during_a_long_computation(live: LiveGroup) -> None:
    worker = live.start_workers(1)[0]
    live.send(witness, [Deed("key", 1, seconds=30)])
    live.wait_witnessed(f"{worker.pid}:1")
    assert len(live.app.control.ping(timeout=60, limit=1)) == 1
    assert live.processed() == 0


def test_remote_control_shuts_a_worker_down(live: LiveGroup) -> None:
    worker = live.start_workers(1)[0]
    # A broadcast without subscribers is lost, and a worker is ready a moment before it has subscribed.
    wait_until(lambda: live.app.control.ping(timeout=1, limit=1))
    live.app.control.shutdown()
    assert worker.wait() == 0
    assert set(live.owners().values()) == {None}
