"""A resize where no script sees two partitions: a move takes everything of a key along, and what is done twice changes nothing.

One server plays all of them, because a script sees only its own keys.
"""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.topology import Topology
from celery_partitions.store import resize_apart
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import Names
from celery_partitions.store.outbox import Outbox, receive
from celery_partitions.store.parked_keys import dump_parked
from celery_partitions.store.resize import NotMoved, admit, begin_resize, finish_resize, move_keys, read_place
from celery_partitions.store.resize_apart import Removal, have_arrived, note_moved, note_progress
from celery_partitions.store.topology import agree_on_topology, read_topology

NAMES = Names("partition", is_spread=True)
AUDIT = [100, "me", "resize", "{}"]
SOURCE, TARGET = Lease("0", 7), Lease("1", 8)


@pytest.fixture
def grown(client: redis.Redis) -> Topology:
    """A group that has just been resized from one partition to two; both are held and follow."""
    agree_on_topology(client, NAMES, 1)
    client.hset(NAMES.meta("0"), mapping={"token": 7, "version:c": 3, "seen:c": 50})
    client.hset(NAMES.meta("1"), mapping={"token": 8, "version:c": 2, "seen:c": 60})
    assert begin_resize(client, NAMES, Topology(0, 1), 2, AUDIT) == ("ok", "1")
    topology = read_topology(client, NAMES, 1)
    for lease in (SOURCE, TARGET):
        assert note_progress(client, NAMES, lease, topology, "epoch", 1) == "ok"
    return topology


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    return loaded(client)


def loaded(client: redis.Redis) -> Outbox:
    found = Outbox.of_partition(NAMES, "0")
    found.order = 1
    found.load(client)
    return found


def removal(client: redis.Redis, outbox: Outbox, lease: Lease = SOURCE) -> Removal:
    return Removal(client, NAMES, CommitStore(client, NAMES, batch_messages=10, batch_bytes=1_000_000), lease, outbox)


def move(client: redis.Redis, outbox: Outbox, topology: Topology) -> int:
    return sum(move_keys(client, NAMES, SOURCE, topology, ["c"], removal(client, outbox)))


def bring(client: redis.Redis, outbox: Outbox) -> None:
    while entries := outbox.waiting():
        for target, answer in receive(client, NAMES, "0", entries).items():
            assert not isinstance(answer, Exception)
            assert answer.status == "ok"
            outbox.delivered(target, answer.tail)


def keys_of(topology: Topology, partition: int) -> list[str]:
    return [key for key in map(str, range(40)) if topology.partition_of(key) == partition]


def fill(client: redis.Redis, key: str, messages: list[str]) -> None:
    client.hset(NAMES.states("0", "c"), key, f"state of {key}")
    client.hset(NAMES.parked("0"), key, dump_parked(ParkedKey(due=9.0, attempt=2)))
    client.zadd(NAMES.parked_due("0"), {key: 9000})
    client.lpush(str(NAMES.mailbox("0", key), "utf-8"), *messages)
    client.zadd(NAMES.rates("0", "c"), {key: 5, f"{key}\0line": 6})


def check(client: redis.Redis, partition: str, key: str, messages: list[bytes]) -> None:
    assert client.hgetall(NAMES.states(partition, "c")) == {key.encode(): f"state of {key}".encode()}
    assert client.hkeys(NAMES.parked(partition)) == [key.encode()]
    assert client.zrange(NAMES.parked_due(partition), 0, -1, withscores=True) == [(key.encode(), 9000.0)]
    assert client.lrange(str(NAMES.mailbox(partition, key), "utf-8"), 0, -1) == messages[::-1]
    assert client.zrange(NAMES.rates(partition, "c"), 0, -1, withscores=True) == [(key.encode(), 5.0), (f"{key}\0line".encode(), 6.0)]


def test_a_move_takes_everything_of_a_key_along(client: redis.Redis, outbox: Outbox, grown: Topology) -> None:
    stays, goes = keys_of(grown, 0)[0], keys_of(grown, 1)[0]
    messages = [f"message {number}" for number in range(37)]
    for key in (stays, goes):
        fill(client, key, messages)
    client.sadd(NAMES.deduplication("0", "c", "young"), "id")
    client.pexpire(NAMES.deduplication("0", "c", "young"), 50_000)
    assert move(client, outbox, grown) == 1
    assert client.exists(NAMES.states("1", "c")) == 0  # it is in the outbox
    assert move(client, outbox, grown) == 0
    bring(client, outbox)
    for partition, key in (("0", stays), ("1", goes)):
        check(client, partition, key, [one.encode() for one in messages])
        assert client.smembers(NAMES.deduplication(partition, "c", "young")) == {b"id"}
    assert 0 < client.pttl(NAMES.deduplication("1", "c", "young")) <= 50_000
    assert client.hmget(NAMES.meta("1"), ["version:c", "seen:c"]) == [b"3", b"60"]


@pytest.mark.parametrize("commits", range(1, 8))
def test_a_move_that_ended_after_any_commit_goes_on(
    client: redis.Redis, outbox: Outbox, grown: Topology, commits: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resize_apart, "FIRST_MESSAGES", 2)
    monkeypatch.setattr(resize_apart, "PAGE", 4)
    goes, messages = keys_of(grown, 1)[0], [f"message {number}" for number in range(15)]
    fill(client, goes, messages)
    write, left = Removal._write, commits

    def dying(self: Removal) -> None:
        nonlocal left
        if left == 0:
            raise KeyboardInterrupt
        left -= bool(self._commands)
        write(self)

    monkeypatch.setattr(Removal, "_write", dying)
    with pytest.raises(KeyboardInterrupt):
        move(client, outbox, grown)
    monkeypatch.setattr(Removal, "_write", write)
    after = loaded(client)  # by the worker that takes over
    move(client, after, grown)
    bring(client, after)
    bring(client, loaded(client))  # as after a lost answer
    check(client, "1", goes, [one.encode() for one in messages])


def test_a_move_is_refused(client: redis.Redis, outbox: Outbox, grown: Topology) -> None:
    client.hset(NAMES.states("0", "c"), mapping=dict.fromkeys(keys_of(grown, 1), "s"))
    client.hset(NAMES.meta("1"), "epoch", 0)
    with pytest.raises(NotMoved, match="open"):
        move(client, outbox, grown)
    client.hset(NAMES.meta("1"), "epoch", 1)
    going = move_keys(client, NAMES, SOURCE, grown, ["c"], removal(client, outbox))
    next(going)
    client.hincrby(NAMES.meta("0"), "edit_version", 1)  # an operator changes a state
    with pytest.raises(NotMoved, match="changed"):
        list(going)
    with pytest.raises(NotMoved, match="fenced"):
        list(move_keys(client, NAMES, SOURCE, grown, ["c"], removal(client, loaded(client), Lease("0", 6))))
    assert client.hlen(NAMES.states("0", "c")) == len(keys_of(grown, 1))
    assert move(client, loaded(client), grown) == len(keys_of(grown, 1))


def test_progress_is_noted_once_and_by_the_holder_only(client: redis.Redis, grown: Topology) -> None:
    assert note_progress(client, NAMES, Lease("0", 6), grown, "moved", 1) == "fenced"
    assert not read_place(client, NAMES, "1", grown, 1).is_complete
    for _ in range(2):
        assert note_progress(client, NAMES, SOURCE, grown, "moved", 1) == "ok"
        note_moved(client, NAMES, "0", grown)
    assert client.hget(NAMES.meta("0"), "commit_number") == b"2"
    assert read_place(client, NAMES, "1", grown, 1).is_complete
    assert read_topology(client, NAMES, 1).is_moving  # of two, one has moved
    note_moved(client, NAMES, "1", grown)
    assert not read_topology(client, NAMES, 1).is_moving
    assert begin_resize(client, NAMES, grown, 1, AUDIT, back=True)[0] == "late"


def test_it_is_undone_while_keys_move(client: redis.Redis, grown: Topology) -> None:
    client.lpush(NAMES.queue("0"), "younger")
    client.lpush(NAMES.inbox("0"), "older")
    assert begin_resize(client, NAMES, grown, 1, AUDIT, back=True)[0] == "ok"
    back = read_topology(client, NAMES, 1)
    assert (back.is_back, back.is_moving, back.undone) == (True, False, Topology(1, 2, 1, 2))
    for _ in range(2):
        assert note_progress(client, NAMES, SOURCE, back, "returned", 2) == "ok"
        client.lpush(NAMES.queue("0"), "youngest")
    assert client.lrange(NAMES.inbox("0"), 0, -1) == [b"younger", b"older"]
    assert client.llen(NAMES.queue("0")) == 2


def test_what_was_in_the_inbox_waits_again(client: redis.Redis) -> None:
    agree_on_topology(client, NAMES, 1)
    client.hset(NAMES.meta("1"), "token", 8)
    client.lpush(NAMES.inbox("1"), "oldest", "older")
    client.lpush(NAMES.queue("1"), "young")
    begin_resize(client, NAMES, Topology(0, 1), 2, AUDIT)
    for _ in range(2):
        assert note_progress(client, NAMES, TARGET, read_topology(client, NAMES, 1), "epoch", 1) == "ok"
    assert client.lrange(NAMES.queue("1"), 0, -1) == [b"young", b"older", b"oldest"]


def test_messages_are_admitted_once_older_ones_have_arrived(client: redis.Redis, outbox: Outbox, grown: Topology) -> None:
    client.lpush(NAMES.queue("1"), "a", "b")
    found = admit(client, NAMES, TARGET, (0,), 0)
    assert found is not None
    assert (found.admitted, found.waiting, found.sources[0]) == (0, 2, (0, 0, 0, 0))  # also an empty source: a message may just have come there
    client.lpush(NAMES.queue("0"), "older")
    for command in outbox.pack([["LPUSH", NAMES.inbox("1"), "passed on"]]):
        client.execute_command(*command)
    outbox.written()
    found = admit(client, NAMES, TARGET, (0,), 0)
    assert found is not None
    assert found.sources[0] == (0, 1, 1, 0)
    assert not have_arrived(client, NAMES, ["0", "1"])
    bring(client, outbox)
    assert have_arrived(client, NAMES, ["0", "1"])
    found = admit(client, NAMES, TARGET, (0,), 2)
    assert found is not None
    assert (found.admitted, found.ready, found.sources) == (2, 3, {})


def test_it_is_finished_when_all_has_passed_and_arrived(client: redis.Redis, outbox: Outbox, grown: Topology) -> None:
    def finish() -> Any:
        return finish_resize(client, NAMES, grown, said="x", quiet_seconds=0)[0]

    assert finish() == "moving"
    for lease in (SOURCE, TARGET, Lease("ingress", 9)):
        client.hset(NAMES.meta(lease.partition), "token", lease.token)
        note_progress(client, NAMES, lease, grown, "moved", 1)
    assert finish_resize(client, NAMES, grown)[0] == "busy"
    client.lpush(NAMES.queue("0"), "old")
    assert finish() == "passing"
    client.delete(NAMES.queue("0"))
    for command in outbox.pack([["LPUSH", NAMES.inbox("1"), "passed on"]]):
        client.execute_command(*command)
    outbox.written()
    assert finish() == "passing"
    bring(client, outbox)
    assert [finish(), finish()] == ["ok", "changed"]


def test_in_order_a_target_waits_for_those_before_it(client: redis.Redis, outbox: Outbox) -> None:
    for commands in ([["LPUSH", NAMES.queue("5"), "b"], ["LPUSH", NAMES.queue("2"), "a"]], [["LPUSH", NAMES.queue("2"), "c"]]):
        for command in outbox.pack(commands):
            client.execute_command(*command)
        outbox.written()
    seen = []
    for found in (outbox, loaded(client)):
        while entries := found.waiting():
            ((target, some),) = entries.items()
            seen.append((target, len(some)))
            found.delivered(target, some[-1].tail)
    assert seen == [("2", 1), ("5", 1), ("2", 1)] * 2
    found.order = 0
    found.load(client)
    assert set(found.waiting()) == {"2", "5"}
