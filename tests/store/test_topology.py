"""A group's number of partitions, and the layout of its keys: a process that disagrees stops with an error that says what to do."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from celery_partitions.admin.doctor import _group
from celery_partitions.model.errors import SetupError
from celery_partitions.model.topology import Topology
from celery_partitions.store.names import Names
from celery_partitions.store.topology import LAYOUT, RESIZED_LAYOUT, agree_on_topology, read_topology
from celery_partitions_config.settings import Settings


def test_the_first_process_writes_n_and_the_layout(client: redis.Redis, names: Names) -> None:
    assert agree_on_topology(client, names, 4) == agree_on_topology(client, names, 4) == Topology(0, 4)
    assert client.hgetall(names.group_meta) == {b"layout": b"%d" % LAYOUT, b"partitions": b"4"}


@pytest.mark.parametrize("layout", ["1", str(LAYOUT + 1), "no number"])
def test_another_layout_is_refused_with_what_to_do(client: redis.Redis, names: Names, layout: str) -> None:
    client.hset(names.group_meta, mapping={"layout": layout, "partitions": 4})
    with pytest.raises(SetupError, match=f"has key layout {layout} .* only layout {LAYOUT}.* export FILE.* import FILE --replace"):
        agree_on_topology(client, names, 4)
    assert client.hgetall(names.group_meta) == {b"layout": layout.encode(), b"partitions": b"4"}
    (check,) = _group(client, names, Settings(), dict, 0.0)
    assert check.verdict == "bad" and f"layout {layout}" in check.text


def test_a_group_with_keys_of_the_previous_layout_is_refused_and_nothing_is_written(client: redis.Redis, names: Names) -> None:
    client.hset("partition:group", "partitions", 4)
    with pytest.raises(SetupError, match=r"older key layout .* export FILE.* delete the keys that begin with 'partition:'"):
        agree_on_topology(client, names, 4)
    assert client.keys() == [b"partition:group"]
    client.delete("partition:group")
    agree_on_topology(client, names, 4)


@pytest.mark.parametrize("write", [("SET", "partition:group", "x"), ("HSET", "partition:group", "name", "theirs")])
def test_a_foreign_key_does_not_count_as_an_older_layout(client: redis.Redis, names: Names, write: tuple[str, ...]) -> None:
    client.execute_command(*write)
    assert agree_on_topology(client, names, 4).partitions == 4


def test_after_a_resize_the_number_in_redis_counts(client: redis.Redis, names: Names) -> None:
    client.hset(names.group_meta, mapping={"layout": RESIZED_LAYOUT, "partitions": 8, "epoch": 3, "former": 4, "highest": 16})
    found = agree_on_topology(client, names, 5)
    assert found == read_topology(client, names, 5) == Topology(3, 8, 4, 16)
    assert (found.served, found.before) == (16, Topology(2, 4, None, 16))


def test_the_sources_of_a_partition_are_those_that_can_hold_its_keys() -> None:
    grown, shrunk = Topology(1, 12, former=4), Topology(1, 4, former=12)
    assert [grown.sources(number) for number in (0, 3, 4, 11, None)] == [(), (), (0,), (3,), ()]
    assert [shrunk.sources(number) for number in (0, 3, 4)] == [(4, 8), (7, 11), ()]
    keys = [str(number) for number in range(200)]
    for topology in (grown, shrunk):
        for key in keys:
            before, after = topology.before.partition_of(key), topology.partition_of(key)
            assert before == after or before in topology.sources(after)
    assert Topology(1, 12).sources(4) == ()


def test_senders_use_the_former_number_while_keys_move() -> None:
    moved = Topology(1, 12, former=4)
    assert moved.of_senders is moved
    moving = replace(moved, is_moving=True)
    assert moving.of_senders == moving.before
    assert (moving.of_senders.partitions, moving.of_senders.served) == (4, 12)
