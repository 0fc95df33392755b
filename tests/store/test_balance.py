"""balance.lua: shares differ by at most one, with and without counting the ingress, and no partition moves without need."""

from __future__ import annotations

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress
from tests.store.cluster import Cluster

#: Each example empties the database.
on_the_server = settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def cluster(client: redis.Redis, names: Names, partitions: int, seed: int = 0) -> Cluster:
    client.flushdb()
    return Cluster(client, names, partitions, seed)


def check_fair(cluster: Cluster) -> None:
    """Check that every partition has an owner, and that shares differ by at most one."""
    assert cluster.owners().keys() == set(partitions_and_ingress(cluster.partitions))
    for loads in cluster.loads():
        assert max(loads.values()) - min(loads.values()) <= 1, loads


def moved(before: dict[str, str], after: dict[str, str]) -> set[str]:
    """Partitions (without the ingress) whose owner has changed."""
    return {partition for partition, worker in after.items() if partition != INGRESS and before.get(partition) != worker}


@pytest.mark.parametrize("workers", range(1, 10))
@pytest.mark.parametrize("partitions", range(1, 18))
def test_any_number_of_workers_and_partitions_is_shared_fairly(
    client: redis.Redis, names: Names, workers: int, partitions: int
) -> None:
    group = cluster(client, names, partitions, seed=workers)
    for _ in range(workers):
        group.join()
    group.settle()
    check_fair(group)


@on_the_server
@given(partitions=st.integers(1, 17), seed=st.integers(0, 10**6), events=st.lists(st.integers(0, 3), max_size=12))
def test_after_joins_leaves_and_deaths_in_any_order_the_shares_are_fair(
    client: redis.Redis, names: Names, partitions: int, seed: int, events: list[int]
) -> None:
    """Events also happen while the shares are still changing."""
    group = cluster(client, names, partitions, seed)
    group.join()
    for event in events:
        workers = sorted(group.workers)
        if event == 0 and len(workers) < 9:
            group.join()
        elif event == 1 and len(workers) > 1:
            group.leave(group.random.choice(workers))
        elif event == 2 and len(workers) > 1:
            group.die(group.random.choice(workers))
        else:
            group.step(group.random.choice(workers))
    group.settle()
    check_fair(group)


@on_the_server
@given(partitions=st.integers(1, 17), seed=st.integers(0, 10**6), joins=st.lists(st.booleans(), max_size=12))
def test_no_partition_moves_without_need(
    client: redis.Redis, names: Names, partitions: int, seed: int, joins: list[bool]
) -> None:
    """A join moves as few partitions as possible, all to the new worker. A leave or a death moves only that worker's partitions."""
    group = cluster(client, names, partitions, seed)
    group.join()
    group.settle()
    for join in joins:
        before = group.owners()
        if join and len(group.workers) < 9:
            new = group.join()
            group.settle()
            assert {group.owners()[partition] for partition in moved(before, group.owners())} <= {new}
            assert len(moved(before, group.owners())) == partitions // len(group.workers)
        elif len(group.workers) > 1:
            gone = group.random.choice(sorted(group.workers))
            group.random.choice([group.leave, group.die])(gone)
            group.settle()
            assert moved(before, group.owners()) == {u for u, w in before.items() if w == gone} - {INGRESS}
            assert before[INGRESS] in (gone, group.owners()[INGRESS])
        check_fair(group)


def test_stable_shares_do_not_change(client: redis.Redis, names: Names) -> None:
    group = cluster(client, names, 7)
    for _ in range(3):
        group.join()
    group.settle()
    before = group.owners(), [client.hget(names.meta(partition), "token") for partition in partitions_and_ingress(7)]
    for _ in range(5):
        for worker in group.workers:
            assert group.ask(worker).give_up == ()
    assert (group.owners(), [client.hget(names.meta(partition), "token") for partition in partitions_and_ingress(7)]) == before


def test_a_worker_that_seemed_dead_and_was_not_replaced_keeps_its_tokens(
    client: redis.Redis, names: Names
) -> None:
    group = cluster(client, names, 4)
    worker = group.join()
    group.settle()
    before = group.ask(worker).owned
    client.zadd(names.workers, {worker: 1})
    assert group.ask(worker).owned == before


def test_a_worker_that_returns_after_it_was_replaced_owns_none_of_its_old_partitions(
    client: redis.Redis, names: Names
) -> None:
    group = cluster(client, names, 4)
    late = group.join()
    group.settle()
    before = group.ask(late).owned
    group.die(late)
    group.join()
    group.settle()
    group.workers[late] = ()
    group.settle()
    check_fair(group)
    assert all(token > before[partition] for partition, token in group.ask(late).owned.items())


def test_pinned_partitions_go_to_their_worker_and_the_rest_is_shared_by_the_others(
    client: redis.Redis, names: Names
) -> None:
    group = cluster(client, names, 8)
    one, two = group.join(), group.join()
    group.settle()
    pinned = group.join("2", "5")
    group.settle()
    owners = group.owners()
    assert {partition for partition, worker in owners.items() if worker == pinned} == {"2", "5"}
    assert {alone for worker, alone in group.loads()[0].items() if worker != pinned} == {3}
    assert owners[INGRESS] in (one, two)


@pytest.mark.parametrize("goes", ["leave", "die"])
def test_pinned_partitions_are_shared_when_their_worker_is_gone(client: redis.Redis, names: Names, goes: str) -> None:
    group = cluster(client, names, 4)
    group.join()
    pinned = group.join("1", "3")
    group.settle()
    getattr(group, goes)(pinned)
    group.settle()
    check_fair(group)


def test_the_second_of_two_workers_pinned_to_one_partition_waits_as_a_standby(client: redis.Redis, names: Names) -> None:
    group = cluster(client, names, 3)
    group.join()
    first = group.join("1")
    group.settle()
    second = group.join("1")
    group.settle()
    assert group.owners()["1"] == first
    group.die(first)
    group.settle()
    assert group.owners()["1"] == second


@on_the_server
@given(
    partitions=st.integers(1, 9),
    seed=st.integers(0, 10**6),
    pins=st.lists(st.lists(st.integers(0, 8), min_size=1, max_size=4, unique=True), max_size=3),
    general=st.integers(1, 4),
)
def test_with_pins_every_partition_has_an_allowed_owner_and_the_rest_is_shared_fairly(
    client: redis.Redis, names: Names, partitions: int, seed: int, pins: list[list[int]], general: int
) -> None:
    group = cluster(client, names, partitions, seed)
    joins = [tuple(map(str, wanted)) for wanted in pins] + [()] * general
    group.random.shuffle(joins)
    for wanted in joins:
        group.join(*wanted)
        group.step(group.random.choice(sorted(group.workers)))
    group.settle()
    owners = group.owners()
    assert owners.keys() == set(partitions_and_ingress(partitions))
    named = {partition for wanted in group.workers.values() for partition in wanted}
    for partition, worker in owners.items():
        assert (partition in group.workers[worker]) if partition in named else (group.workers[worker] == ())
    for loads in group.loads():
        shared = [count for worker, count in loads.items() if not group.workers[worker]]
        assert max(shared) - min(shared) <= 1
