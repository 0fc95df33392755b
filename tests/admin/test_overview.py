"""The overview of a group, and how many round trips it takes."""

from __future__ import annotations

import time
from contextlib import closing
from typing import Any, ClassVar

import pytest
import redis

from celery_partitions.admin.overview import PartitionOverview, read_overview
from celery_partitions.admin.status import worker_id
from celery_partitions.model.message_writer import MessageTemplate
from celery_partitions.runtime.group import Group
from celery_partitions.store.leases import balance, remember_computations
from celery_partitions.store.measurements import add_measurements
from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.telemetry import Measurements
from celery_partitions_config.settings import Settings


def message(sent_at: bytes, body: bytes = b"[[1],{},{}]") -> bytes:
    return MessageTemplate.small("t", "partition.1", "here").fill(b"id", sent_at, body)


@pytest.fixture
def group(settings: Settings, client: redis.Redis) -> Group:
    return Group(settings)


def of(group: Group, partition: str, **options: bool) -> PartitionOverview:
    return {one.partition: one for one in read_overview(group, **options).partitions}[partition]


def test_a_partition_has_all_its_numbers(group: Group, client: redis.Redis, names: Names) -> None:
    remember_computations(client, names, ["one", "two"])
    before = time.time()
    client.lpush("partition.1", message(b"%r" % (before - 50)), message(b"%r" % before))
    client.lpush("partition.1\x06\x163", "c")
    counters = {"processed": 70, "failed": 6, "forwarded": 5, "emitted": 4, "deduplicated": 3, "skipped": 2, "dead": 1}
    client.hset(names.meta("1"), mapping={**counters, "paused": 1})
    client.hset(names.states("1", "one"), mapping={"k": "1" * 5000, "l": "2"})
    client.hset(names.states("1", "two"), mapping={"k": "1"})
    client.hset(names.parked("1"), "k", "{}")
    client.hset(names.dead("1"), mapping={"1-0-0": "{}", "1-0-1": "{}"})
    client.zadd(names.delayed("1"), {"x": 1, "y": 2, "z": 3})
    balance(client, names, worker_id("node@host", "u"), lease_seconds=60, partitions=4, pins=["1"])
    add_measurements(client, names, {"1": Measurements(takeovers=7)})
    found = of(group, "1", state_bytes=True)
    assert (found.measurements.takeovers, of(group, "2").measurements) == (7, Measurements())
    status = found.status
    assert (status.queue, status.owner, status.length, status.processed) == ("partition.1", "node@host", 3, 70)
    assert (status.keys, status.parked, status.dead, status.delayed, status.paused) == (3, 1, 2, 3, True)
    assert (found.failed, found.forwarded, found.emitted, found.deduplicated) == (6, 5, 4, 3)
    assert (found.skipped, found.dead_lettered) == (2, 1)
    assert (found.left, found.present) == (70 + 5 + 3 + 2 + 1, 3 + 3)
    assert found.oldest_age_seconds is not None
    assert 50 <= found.oldest_age_seconds < 60
    assert found.lease_age_seconds is not None
    assert 0 <= found.lease_age_seconds < 10
    assert found.state_bytes is not None
    assert found.state_bytes > 5000
    assert of(group, "1").state_bytes is None, "only on request"


def test_an_untouched_group_is_idle(group: Group, client: redis.Redis) -> None:
    began = time.time()
    found = read_overview(group, state_bytes=True)
    assert [one.partition for one in found.partitions] == ["0", "1", "2", "3", INGRESS]
    assert {
        (one.status.owner, one.lease_age_seconds, one.oldest_age_seconds, one.state_bytes, one.left, one.present)
        for one in found.partitions
    } == {(None, None, None, 0, 0, 0)}
    assert began - 1 < found.at < time.time() + 1


@pytest.mark.parametrize(
    ("raw", "age"),
    [
        (message(b"null"), None),
        (b"no message", None),
        (message(b"1e999"), None),
        (message(b"-7"), None),
        (message(b"99999999999"), 0.0),  # a sender whose clock is ahead
        (b'{"headers": {"argsrepr": "\\"sent_at\\": 5", "id": "x"}}', None),
    ],
)
def test_an_oldest_message_without_a_time_has_no_age(
    group: Group, client: redis.Redis, raw: bytes, age: float | None
) -> None:
    client.lpush("partition.1", raw)
    assert of(group, "1").oldest_age_seconds == age


def test_the_age_is_found_in_every_producers_format(group: Group, client: redis.Redis) -> None:
    now = time.time()
    client.lpush("partition", b'{"body": "", "headers": {"sent_at" :  %r , "id": 1}}' % (now - 100))
    client.lpush("partition.0", b'{"headers":{"sent_at":%d}}' % (now - 200))
    client.lpush("partition.3", message(b"%r" % (now - 300), body=b"x" * 3_000_000))
    ages = [of(group, partition).oldest_age_seconds or 0 for partition in (INGRESS, "0", "3")]
    assert [round(age, -1) for age in ages] == [100, 200, 300]


def test_a_key_of_another_type_hides_nothing_else(group: Group, client: redis.Redis, names: Names) -> None:
    for name in (names.meta("0"), names.since, names.measurements, "partition.0", names.parked("0")):
        client.set(name, "text")
    client.hset(names.meta("1"), "processed", 3)
    client.hset(names.meta("2"), "failed", "no number")
    assert (of(group, "0").left, of(group, "0").present) == (0, 0)
    assert (of(group, "1").left, of(group, "2").failed) == (3, 0)


def test_an_error_in_the_owners_is_raised(group: Group, client: redis.Redis, names: Names) -> None:
    client.set(names.owners, "text")
    with pytest.raises(redis.ResponseError, match="WRONGTYPE"):
        read_overview(group)


def test_a_computation_that_has_run_for_the_first_time_is_counted_immediately(group: Group, client: redis.Redis, names: Names) -> None:
    client.hset(names.states("1", "late"), "k", "1")
    assert of(group, "1").status.keys == 0
    remember_computations(client, names, ["late"])
    assert of(group, "1").status.keys == 1


class Counting(redis.Connection):
    """A connection that counts the requests sent together."""

    sent: ClassVar[list[Any]] = []

    def send_packed_command(self, command: Any, check_health: bool = True) -> None:
        self.sent.append(command)
        super().send_packed_command(command, check_health)


def test_an_overview_takes_one_round_trip_for_any_number_of_partitions(settings: Settings, client: redis.Redis) -> None:
    group = Group(Settings(redis_url=settings.redis_url, partitions=256))
    remember_computations(client, group.names, ["one", "two"])
    pool = redis.ConnectionPool.from_url(settings.redis_url, connection_class=Counting)
    with closing(pool):
        group.client = redis.Redis(connection_pool=pool)
        read_overview(group)  # agrees on N, connects, reads the computations
        for state_bytes in (False, True):
            Counting.sent.clear()
            assert len(read_overview(group, state_bytes=state_bytes).partitions) == 257
            assert len(Counting.sent) == 1
