"""balance.lua: a partition with messages of an unknown task goes to a worker that knows it, and stays with such workers."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest
import redis

from celery_partitions.store.leases import Share, balance, release
from celery_partitions.store.names import Names

OLD, NEW = ("pay", "refund"), ("pay", "charge")
Worker = Callable[..., Share]


@pytest.fixture
def worker(client: redis.Redis, names: Names) -> Worker:
    def check(name: str, tasks: Iterable[str], *lacks: tuple[str, str], partitions: int = 4, **options: object) -> Share:
        """A worker checks its share, and releases what it must."""
        share = balance(client, names, name, lease_seconds=60, partitions=partitions, tasks=tasks, lacks=lacks, **options)  # type: ignore[arg-type]
        release(client, names, name, {one: share.owned[one] for one in share.give_up})
        return share

    return check


def settled(worker: Worker, workers: dict[str, Iterable[str]], **options: int) -> dict[str, set[str]]:
    for _ in range(4):
        shares = {name: worker(name, tasks, **options) for name, tasks in workers.items()}
    return {name: set(share.owned) for name, share in shares.items()}


def test_the_partition_goes_to_the_worker_that_knows_the_task_and_stays(worker: Worker) -> None:
    held = settled(worker, {"old": OLD, "new": NEW})
    partition = next(one for one in held["old"] if one != "ingress")
    share = worker("old", OLD, (partition, "charge"))
    assert share.known_elsewhere == {"charge"} and partition in share.give_up
    after = settled(worker, {"old": OLD, "new": NEW})
    assert partition in after["new"] and after["old"] | after["new"] == {"0", "1", "2", "3", "ingress"}


def test_several_workers_that_know_it_share_such_partitions(worker: Worker) -> None:
    settled(worker, {"old": OLD})
    worker("old", OLD, *((str(number), "charge") for number in range(4)))
    workers = {"old": OLD, "new1": NEW, "new2": NEW}
    settled(worker, workers)
    worker("old", OLD, *((str(number), "charge") for number in range(4)))
    held = settled(worker, workers)
    assert sorted(len(held[name] - {"ingress"}) for name in ("new1", "new2")) == [2, 2]
    assert held["old"] <= {"ingress"}


def test_nobody_knows_it(worker: Worker) -> None:
    before = settled(worker, {"old": OLD, "new": NEW})
    partition = min(before["old"])
    share = worker("old", OLD, (partition, "other"), (partition, "pay\nrefund"))
    assert share.known_elsewhere == frozenset() and not share.give_up
    assert settled(worker, {"old": OLD, "new": NEW}) == before


def test_a_worker_that_has_left_or_died_knows_nothing(worker: Worker, client: redis.Redis, names: Names) -> None:
    settled(worker, {"old": OLD, "new": NEW, "gone": ("ship",)})
    assert worker("old", OLD, ("0", "ship")).known_elsewhere == {"ship"}
    release(client, names, "gone", {}, leave=True)
    assert worker("old", OLD, ("0", "ship")).known_elsewhere == frozenset()
    client.zadd(names.workers, {"new": 1})
    assert worker("old", OLD, ("0", "charge")).known_elsewhere == frozenset()
    assert client.hkeys(names.tasks) == [b"old"]


def test_the_ingress_goes_too_and_pinned_partitions_do_not(worker: Worker) -> None:
    worker("pinned", OLD, pins=["0"])
    settled(worker, {"old": OLD, "new": NEW})
    assert not worker("pinned", OLD, ("0", "charge"), pins=["0"]).give_up
    for name, tasks in {"old": OLD, "new": NEW}.items():
        worker(name, tasks, *([] if tasks is NEW else [("ingress", "charge")]))
    assert "ingress" in settled(worker, {"old": OLD, "new": NEW})["new"]


def test_when_all_know_it_shares_are_fair_again(worker: Worker) -> None:
    settled(worker, {"old": OLD})
    worker("old", OLD, *((str(number), "charge") for number in range(4)))
    settled(worker, {"old": OLD, "new": NEW})
    worker("old", OLD, *((str(number), "charge") for number in range(4)))
    assert len(settled(worker, {"old": OLD, "new": NEW})["new"] - {"ingress"}) == 4
    held = settled(worker, {"old": (*OLD, *NEW), "new": NEW})
    assert len(held["old"] - {"ingress"}) == len(held["new"] - {"ingress"}) == 2
