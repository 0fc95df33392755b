"""What the scripts of a resize answer, and that a move takes everything of a key along."""

from __future__ import annotations

from dataclasses import replace

import pytest
import redis

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.topology import Topology
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.parked_keys import dump_parked
from celery_partitions.store.resize import (
    NotMoved,
    admit,
    begin_resize,
    finish_resize,
    move_keys,
    note_epoch,
    note_progress,
    read_place,
)
from celery_partitions.store.topology import agree_on_topology, read_topology

AUDIT = [100, "me", "resize", "{}"]
LEASE = Lease("0", 7)


@pytest.fixture
def grown(client: redis.Redis, names: Names) -> Topology:
    """A group that has just been resized from one partition to two; partition 0 is held, and follows."""
    agree_on_topology(client, names, 1)
    client.hset(names.meta("0"), mapping={"token": 7, "version:c": 3})
    assert begin_resize(client, names, Topology(0, 1), 2, AUDIT) == ("ok", "1")
    topology = read_topology(client, names, 1)
    assert note_progress(client, names, LEASE, 1, "epoch") == "ok"
    return topology


def keys_of(topology: Topology, partition: int) -> list[str]:
    return [key for key in map(str, range(40)) if topology.partition_of(key) == partition]


def test_a_move_takes_everything_of_a_key_along(client: redis.Redis, names: Names, grown: Topology) -> None:
    stays, goes = keys_of(grown, 0)[0], keys_of(grown, 1)[0]
    for key in (stays, goes):
        client.hset(names.states("0", "c"), key, f"state of {key}")
        client.hset(names.parked("0"), key, dump_parked(ParkedKey(due=9.0, attempt=2)))
        client.zadd(names.parked_due("0"), {key: 9000})
        client.lpush(str(names.mailbox("0", key), "utf-8"), "first", "second")
        client.zadd(names.rates("0", "c"), {key: 5, f"{key}\0line": 6})
    client.sadd(names.deduplication("0", "c", "young"), "id")
    client.pexpire(names.deduplication("0", "c", "young"), 50_000)
    for _ in range(2):  # the second time nothing is left
        assert sum(move_keys(client, names, LEASE, grown, ["c"])) <= 1
    for partition, key in (("0", stays), ("1", goes)):
        assert client.hgetall(names.states(partition, "c")) == {key.encode(): f"state of {key}".encode()}
        assert client.hkeys(names.parked(partition)) == [key.encode()]
        assert client.zrange(names.parked_due(partition), 0, -1, withscores=True) == [(key.encode(), 9000.0)]
        assert client.lrange(str(names.mailbox(partition, key), "utf-8"), 0, -1) == [b"second", b"first"]
        assert client.zcard(names.rates(partition, "c")) == 2
        assert client.smembers(names.deduplication(partition, "c", "young")) == {b"id"}
        assert client.hget(names.meta(partition), "version:c") == b"3"
    assert 0 < client.pttl(names.deduplication("1", "c", "young")) <= 50_000


def test_a_move_is_refused(client: redis.Redis, names: Names, grown: Topology) -> None:
    client.hset(names.states("0", "c"), mapping=dict.fromkeys(keys_of(grown, 1), "s"))
    for lease, topology, status in (
        (Lease("0", 6), grown, "fenced"),
        (LEASE, replace(grown, epoch=2), "changed"),
        (LEASE, Topology(1, 2, former=3), "open"),  # partition 1 had keys before, and does not follow yet
    ):
        with pytest.raises(NotMoved) as refused:
            list(move_keys(client, names, lease, topology, ["c"]))
        assert refused.value.status == status
    assert client.exists(names.states("1", "c")) == 0


def test_keys_are_on_their_way_until_each_partition_has_moved_its_own(client: redis.Redis, names: Names, grown: Topology) -> None:
    ingress, other = Lease("ingress", 8), Lease("1", 8)
    for lease in (ingress, other):
        client.hset(names.meta(lease.partition), mapping={"token": 8, "epoch": 1})
    seen = []
    for lease in (LEASE, LEASE, ingress, other):  # the ingress has no keys
        assert note_progress(client, names, lease, 1, "moved") == "ok"
        seen.append(read_topology(client, names, 1).is_moving)
    assert (grown.is_moving, seen) == (True, [True, True, True, False])
    client.hset(names.meta("ingress"), "moved", 1)
    assert finish_resize(client, names, grown, said="x") == ("passing", 0)  # producers do not know it yet
    assert begin_resize(client, names, grown, 1, AUDIT, back=True)[0] == "ok"
    assert not read_topology(client, names, 1).is_moving  # who has changed to the other number must not go back
    back = read_topology(client, names, 1)
    for partition in ("0", "1", "ingress"):
        client.hset(names.meta(partition), mapping={"epoch": 2, "moved": 2})
    assert finish_resize(client, names, back, said="y", quiet_seconds=60) == ("passing", 0)  # nor do they know this one yet
    assert finish_resize(client, names, back, said="y", quiet_seconds=0) == ("ok", 0)


def test_progress_is_noted_once_and_by_the_holder_only(client: redis.Redis, names: Names, grown: Topology) -> None:
    assert not read_place(client, names, "1", grown, 1).is_complete
    assert note_progress(client, names, Lease("0", 6), 1, "moved") == "fenced"
    assert note_progress(client, names, LEASE, 2, "moved") == "changed"
    assert [note_progress(client, names, LEASE, 1, "moved") for _ in range(2)] == ["ok", "ok"]
    assert client.hget(names.meta("0"), "commit_number") == b"2"
    place = read_place(client, names, "1", grown, 1)
    assert (place.epoch, place.moved, place.newest, place.is_complete, place.has_inbox) == (0, 0, 1, True, False)


def test_messages_are_admitted_once_older_ones_have_passed(client: redis.Redis, names: Names, grown: Topology) -> None:
    mine = Lease("1", 8)
    client.hset(names.meta("1"), "token", 8)
    client.lpush(names.queue("1"), "a", "b", "c")
    client.lpush(names.queue("0"), "older")
    assert admit(client, names, Lease("1", 6), (0,), 0) is None
    found = admit(client, names, mine, (0,), 0)
    assert found is not None and (found.admitted, found.waiting, found.ready, found.sources) == (0, 3, 0, {0: (0, 1, 0, 0)})
    found = admit(client, names, mine, (0,), 2)
    assert found is not None and (found.admitted, found.waiting, found.ready) == (2, 1, 2)
    client.delete(names.queue("0"))
    found = admit(client, names, mine, (0,), 0)
    assert found is not None and found.admitted == 1
    assert client.lrange(names.inbox("1"), 0, -1) == [b"c", b"b", b"a"]


def test_messages_that_were_there_before_a_resize_wait_too(client: redis.Redis, names: Names, grown: Topology) -> None:
    for partition in ("0", "1", "ingress"):
        client.hset(names.meta(partition), mapping={"epoch": 1, "moved": 1})
    assert finish_resize(client, names, grown, said="x") == ("ok", 0)
    client.lpush(names.inbox("0"), "oldest", "older")
    client.lpush(names.queue("0"), "old")
    client.lpush(names.queue("1"), "elsewhere")
    assert begin_resize(client, names, Topology(1, 2), 1, AUDIT) == ("ok", "2")
    assert client.exists(names.inbox("0")) == 0
    assert client.lrange(names.queue("0"), 0, -1) == [b"old", b"older", b"oldest"]
    assert client.hmget(names.meta("0"), "token") == [b"8"]
    found = admit(client, names, Lease("0", 8), (1,), 0)
    assert found is not None and (found.admitted, found.waiting) == (0, 3)


def test_what_was_passed_on_is_first_again_after_an_abort(client: redis.Redis, names: Names, grown: Topology) -> None:
    client.hset(names.meta("1"), "token", 8)
    client.lpush(names.inbox("1"), "passed on first", "passed on second")
    client.lpush(names.queue("1"), "sent to 1")
    client.lpush(names.queue("0"), "not passed on")
    assert begin_resize(client, names, grown, 1, AUDIT, back=True) == ("ok", "2")
    assert client.lrange(names.inbox("0"), 0, -1) == [b"not passed on", b"passed on second", b"passed on first"]
    assert client.lrange(names.queue("1"), 0, -1) == [b"sent to 1"]
    assert client.hmget(names.meta("1"), "token") == [b"9"]


def test_a_resize_begins_and_finishes_only_if_it_can(client: redis.Redis, names: Names, grown: Topology) -> None:
    assert begin_resize(client, names, Topology(0, 1), 3, AUDIT) == ("changed", "1")
    client.zadd(names.workers, {"old": 9e15})
    assert begin_resize(client, names, grown, 1, AUDIT, back=True) == ("old", "old")
    note_epoch(client, names, "old", 1)
    assert finish_resize(client, names, replace(grown, epoch=2)) == ("changed", 0)
    assert finish_resize(client, names, grown, said="x") == ("moving", 0)
    for partition in ("0", "1", "ingress"):
        client.hset(names.meta(partition), mapping={"epoch": 1, "moved": 1})
    client.lpush(names.queue("0"), "older")
    assert finish_resize(client, names, grown)[0] == "busy"
    assert finish_resize(client, names, grown, said="x") == ("passing", 0)
    client.lpush(names.queue("0"), "younger")
    assert finish_resize(client, names, grown, said="x") == ("passing", 0)
    client.hset(names.meta("0"), "removed", 1)
    client.rpop(names.queue("0"))
    assert finish_resize(client, names, grown, said="x") == ("ok", 0)
    assert read_topology(client, names, 1) == Topology(1, 2, None, 2)


def test_keys_that_have_moved_together_are_not_moved_apart_by_an_abort(client: redis.Redis, names: Names) -> None:
    agree_on_topology(client, names, 2)
    begin_resize(client, names, Topology(0, 2), 1, AUDIT)
    client.hset(names.meta("1"), mapping={"token": 7, "epoch": 1})
    assert begin_resize(client, names, read_topology(client, names, 2), 2, AUDIT, back=True)[0] == "late"
