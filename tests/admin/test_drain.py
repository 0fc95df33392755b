"""Draining: the worker gives up its partitions and gets none until it is undrained or stops."""

from __future__ import annotations

import pytest
import redis

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.drain import drain, undrain
from celery_partitions.admin.status import node_name
from celery_partitions.admin.workers import read_workers
from celery_partitions.store.names import INGRESS, Names
from tests.store.cluster import Cluster

PARTITIONS = {"0", "1", "2", "3", INGRESS}


@pytest.fixture
def cluster(client: redis.Redis, names: Names) -> Cluster:
    return Cluster(client, names, 4)


def held_by(cluster: Cluster, worker: str) -> set[str]:
    return {partition for partition, owner in cluster.owners().items() if owner == worker}


def test_a_drained_worker_releases_everything_and_an_undrained_one_takes_its_share(cluster: Cluster) -> None:
    one, two = cluster.join(), cluster.join()
    cluster.settle()
    assert held_by(cluster, one)
    assert drain(cluster.client, cluster.names, node_name(one), by="me") == "ok"
    cluster.settle()
    assert (held_by(cluster, one), held_by(cluster, two)) == (set(), PARTITIONS)
    assert undrain(cluster.client, cluster.names, node_name(one), by="me") == "ok"
    cluster.settle()
    assert len(held_by(cluster, one)) in (2, 3)


def test_without_another_worker_the_partitions_wait_until_one_starts(cluster: Cluster) -> None:
    one = cluster.join()
    cluster.settle()
    drain(cluster.client, cluster.names, node_name(one), by="me")
    cluster.settle()
    assert cluster.owners() == {}
    two = cluster.join()
    cluster.settle()
    assert held_by(cluster, two) == PARTITIONS


def test_the_partitions_of_a_drained_pinned_worker_go_to_the_others(cluster: Cluster) -> None:
    pinned, general = cluster.join("1", "2"), cluster.join()
    cluster.settle()
    assert held_by(cluster, pinned) == {"1", "2"}
    drain(cluster.client, cluster.names, node_name(pinned), by="me")
    cluster.settle()
    assert (held_by(cluster, pinned), held_by(cluster, general)) == (set(), PARTITIONS)
    undrain(cluster.client, cluster.names, node_name(pinned), by="me")
    cluster.settle()
    assert held_by(cluster, pinned) == {"1", "2"}


@pytest.mark.parametrize("end", ["leave", "die"])
def test_draining_ends_with_the_worker(cluster: Cluster, end: str) -> None:
    one, two = cluster.join(), cluster.join()
    cluster.settle()
    drain(cluster.client, cluster.names, node_name(one), by="me")
    getattr(cluster, end)(one)
    cluster.step(two)
    assert not cluster.client.exists(cluster.names.draining)


def test_only_a_living_worker_can_be_drained_and_only_once(cluster: Cluster) -> None:
    one, other = cluster.join(), cluster.join()
    cluster.settle()
    client, names = cluster.client, cluster.names
    assert undrain(client, names, node_name(one), by="me") == "already"
    assert [drain(client, names, node_name(one), by="me") for _ in range(2)] == ["ok", "already"]
    assert [drain(client, names, name, by="me") for name in ("unknown", "", node_name(one)[:-1], one)] == ["unknown"] * 4
    cluster.die(other)
    assert drain(client, names, node_name(other), by="me") == "unknown"
    assert [record.what for record in Audit(client, names).last(9)] == ["drain"]


def test_workers_are_listed_with_their_partitions(cluster: Cluster) -> None:
    pinned, general, dead = cluster.join("1", "2"), cluster.join(), cluster.join()
    cluster.settle()
    cluster.die(dead)
    cluster.settle()
    drain(cluster.client, cluster.names, node_name(pinned), by="me")
    found = {worker.node: worker for worker in read_workers(cluster.client, cluster.names)}
    assert found.keys() == {node_name(pinned), node_name(general)}
    one, two = found[node_name(pinned)], found[node_name(general)]
    assert (one.queues, one.pinned, one.draining) == (["partition.1", "partition.2"],) * 2 + (True,)
    assert (two.queues, two.pinned, two.draining) == (["partition.0", "partition.3", "partition"], [], False)
    assert one.lease_seconds > 1000


def test_a_worker_that_is_cut_off_can_be_undrained(cluster: Cluster) -> None:
    """Its membership has lapsed, but not its drain, which would count again when it comes back."""
    one = cluster.join()
    cluster.settle()
    assert drain(cluster.client, cluster.names, node_name(one), by="me") == "ok"
    cluster.client.zadd(cluster.names.workers, {one: 1})
    assert undrain(cluster.client, cluster.names, node_name(one), by="me") == "ok"
    assert cluster.client.hlen(cluster.names.draining) == 0
    assert undrain(cluster.client, cluster.names, node_name(one), by="me") == "unknown"
