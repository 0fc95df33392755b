"""The outbox, and each answer of `receive` and `trim_outbox`. One server plays all of them, because a script sees only its own keys."""

from __future__ import annotations

from typing import Any

import pytest
import redis

from celery_partitions.store.names import INGRESS, Names
from celery_partitions.store.outbox import ENTRIES_IN_ONE_CALL, MAX_ENTRIES, Outbox, Received, receive

NAMES = Names("partition", is_spread=True)
QUEUE, OTHER = NAMES.queue("1"), NAMES.queue("2")


@pytest.fixture
def outbox(client: redis.Redis) -> Outbox:
    found = Outbox.of_partition(NAMES, "0")
    found.load(client)
    return found


def commit(client: redis.Redis, outbox: Outbox, *commands: list[Any]) -> None:
    """What a commit does with these commands."""
    for command in outbox.pack(commands):
        client.execute_command(*command)
    outbox.written()


def send(client: redis.Redis, outbox: Outbox) -> dict[str, Received]:
    """Send what waits, as the courier does."""
    answers: dict[str, Received] = {}
    for target, answer in receive(client, NAMES, outbox.source, outbox.waiting()).items():
        assert isinstance(answer, Received)
        answers[target] = answer
        if answer.status in ("ok", "wrongtype"):
            outbox.delivered(target, answer.tail)
    return answers


def in_order(client: redis.Redis, queue: str) -> list[bytes]:
    return client.lrange(queue, 0, -1)[::-1]  # type: ignore[index, return-value]


def test_own_commands_stay_and_others_are_sent_once_in_order(client: redis.Redis, outbox: Outbox) -> None:
    own = ["HSET", NAMES.states("0", "x"), "key", "state"]
    assert outbox.pack([own]) == [own]
    for number in range(3):
        commit(client, outbox, own, ["LPUSH", QUEUE, f"a{number}"], ["LPUSH", "celery", f"b{number}"], ["LPUSH", QUEUE, f"c{number}"])
    entries = outbox.waiting()
    assert {target: len(some) for target, some in entries.items()} == {"1": 3, INGRESS: 3}
    for _ in range(2):  # as after a lost answer, or by the worker that takes over
        answers = receive(client, NAMES, "0", entries)
        assert {one.status for one in answers.values() if isinstance(one, Received)} == {"ok"}
    assert in_order(client, QUEUE) == [b"a0", b"c0", b"a1", b"c1", b"a2", b"c2"]
    assert in_order(client, "celery") == [b"b0", b"b1", b"b2"]


def test_the_next_owner_sends_what_was_left_and_goes_on(client: redis.Redis, outbox: Outbox) -> None:
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    commit(client, outbox, ["LPUSH", QUEUE, "2"])
    send(client, outbox)  # it dies before it trims
    after = Outbox.of_partition(NAMES, "0")
    after.load(client)
    commit(client, after, ["LPUSH", QUEUE, "3"])
    send(client, after)
    assert in_order(client, QUEUE) == [b"1", b"2", b"3"]


def test_a_missing_entry_is_noticed(client: redis.Redis, outbox: Outbox) -> None:
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    commit(client, outbox, ["LPUSH", QUEUE, "2"])
    client.lpop(outbox.key)
    outbox.load(client)
    assert send(client, outbox) == {"1": Received("gap", "", "")}
    assert in_order(client, QUEUE) == []


def test_a_source_that_lost_data_is_noticed(client: redis.Redis, outbox: Outbox) -> None:
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    before = client.dump(outbox.tails_key)
    commit(client, outbox, ["LPUSH", QUEUE, "lost"])
    send(client, outbox)
    client.delete(outbox.key)  # as after a failover to a replica without the second commit
    client.restore(outbox.tails_key, 0, before, replace=True)  # type: ignore[arg-type]
    outbox.load(client)
    commit(client, outbox, ["LPUSH", QUEUE, "another"])
    assert send(client, outbox)["1"].status == "history"
    commit(client, outbox, ["LPUSH", QUEUE, "and another"])
    assert send(client, outbox)["1"].status == "history"
    assert in_order(client, QUEUE) == [b"1", b"lost"]


def test_a_source_that_lost_more_than_it_has_written_since_is_noticed(client: redis.Redis, outbox: Outbox) -> None:
    """The target takes what comes for a repetition of what it has."""
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    before = client.dump(outbox.tails_key)
    for _ in range(2):
        commit(client, outbox, ["LPUSH", QUEUE, "lost"])
    send(client, outbox)
    client.delete(outbox.key)
    client.restore(outbox.tails_key, 0, before, replace=True)  # type: ignore[arg-type]
    outbox.load(client)
    commit(client, outbox, ["LPUSH", QUEUE, "another"])
    answer = receive(client, NAMES, outbox.source, outbox.waiting())["1"]
    assert isinstance(answer, Received) and answer.status == "ok"
    assert not outbox.knows("1", answer.tail)
    assert not outbox.catch_up(client, None, "1", answer.tail)
    assert in_order(client, QUEUE) == [b"1", b"lost", b"lost"]


def test_a_worker_that_was_replaced_is_no_source_that_lost_data(client: redis.Redis, outbox: Outbox) -> None:
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    after = Outbox.of_partition(NAMES, "0")
    after.load(client)
    commit(client, after, ["LPUSH", QUEUE, "2"])
    send(client, after)
    answer = receive(client, NAMES, outbox.source, outbox.waiting())["1"]
    assert isinstance(answer, Received) and not outbox.knows("1", answer.tail)
    assert outbox.catch_up(client, None, "1", answer.tail)
    assert outbox.waiting() == {}


def test_what_a_target_lost_is_sent_again_if_it_is_still_listed(client: redis.Redis, outbox: Outbox) -> None:
    for number in range(3):
        commit(client, outbox, ["LPUSH", QUEUE, number])
    first = outbox.waiting()["1"][0]
    send(client, outbox)
    client.hset(NAMES.received("1"), "0", first.tail)  # as after a failover to a replica with the first entry only
    client.ltrim(QUEUE, -1, -1)
    commit(client, outbox, ["LPUSH", QUEUE, 3])
    answer = send(client, outbox)["1"]
    assert answer == Received("gap", first.tail, "")
    assert outbox.catch_up(client, None, "1", answer.tail)
    send(client, outbox)
    assert in_order(client, QUEUE) == [b"0", b"1", b"2", b"3"]


def test_a_target_that_lost_data_is_noticed(client: redis.Redis, outbox: Outbox) -> None:
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    send(client, outbox)
    client.delete(NAMES.received("1"), QUEUE)
    commit(client, outbox, ["LPUSH", QUEUE, "2"])
    outbox.load(client)
    client.lpop(outbox.key)  # it was trimmed
    outbox.load(client)
    assert send(client, outbox)["1"].status == "gap"


def test_a_key_of_the_wrong_type_keeps_its_entry_whole(client: redis.Redis, outbox: Outbox) -> None:
    client.set("list", "no list")
    commit(client, outbox, ["LPUSH", "celery", "1"])
    commit(client, outbox, ["LPUSH", "celery", "2"], ["LPUSH", "list", "2"])
    assert send(client, outbox)[INGRESS] == Received("wrongtype", outbox.waiting()[INGRESS][0].before, "list")
    assert in_order(client, "celery") == [b"1"]
    client.delete("list")
    assert send(client, outbox)[INGRESS].status == "ok"
    assert (in_order(client, "celery"), in_order(client, "list")) == ([b"1", b"2"], [b"2"])


def test_only_the_owner_removes_what_was_sent_and_only_that(client: redis.Redis, outbox: Outbox) -> None:
    meta = NAMES.meta("0")
    client.hset(meta, "token", 7)
    commit(client, outbox, ["LPUSH", QUEUE, "1"])
    commit(client, outbox, ["LPUSH", OTHER, "2"])
    outbox.trim(client, meta, 7)
    assert client.llen(outbox.key) == 2  # nothing was sent
    waiting = outbox.waiting()
    receive(client, NAMES, "0", {"1": waiting["1"]})
    outbox.delivered("1", waiting["1"][0].tail)
    outbox.keep_all()
    outbox.trim(client, meta, 6)
    assert client.llen(outbox.key) == 2
    outbox.load(client)
    outbox.delivered("1", waiting["1"][0].tail)
    outbox.trim(client, meta, 7)
    assert client.llen(outbox.key) == 2  # a failover of the target may lose it
    outbox.keep_all()
    outbox.trim(client, meta, 7)
    assert client.llen(outbox.key) == 1
    send(client, outbox)
    outbox.keep_all()
    outbox.trim(client, meta, 7)
    assert (client.llen(outbox.key), outbox.is_empty) == (0, True)


def test_one_call_is_bounded_and_too_much_is_noticed(client: redis.Redis, outbox: Outbox) -> None:
    for number in range(MAX_ENTRIES + 1):
        outbox.pack([["LPUSH", QUEUE, number]])
        outbox.written()
    assert outbox.is_full
    first = outbox.waiting()["1"]
    assert len(first) == ENTRIES_IN_ONE_CALL
    outbox.delivered("1", first[-1].tail)
    assert not outbox.is_full
