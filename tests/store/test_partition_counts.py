"""What partitions hold is counted by a script, and in the same way by plain commands for a user who may not run scripts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import redis

from celery_partitions.store.names import Names, partitions_and_ingress
from celery_partitions.store.partition_counts import AT_ONCE, PartitionCounts, read_counts

PARTITIONS = AT_ONCE + 3
COMPUTATIONS, FIELDS = ("one", "two"), ("processed", "paused", "failed")
NOTHING = PartitionCounts(0, 0, 0, 0, 0, None, [None, None, None])


def counts(client: redis.Redis, names: Names) -> dict[str, PartitionCounts | None]:
    wanted = partitions_and_ingress(PARTITIONS)
    found, (pong,) = read_counts(client, names, wanted, COMPUTATIONS, FIELDS, lambda pipe: pipe.ping())
    assert pong is True
    return dict(zip(wanted, found, strict=True))


@pytest.fixture
def filled(client: redis.Redis, names: Names) -> Names:
    """Everything in the last partition, something in two others, and a key of a wrong type in place of each in partition 1."""
    last = str(PARTITIONS - 1)
    client.lpush(names.queue(last), b'{"headers": {"sent_at": 70.5}}', b'{"headers": {"sent_at": 80}}')
    for name in names.priority_lists(last):
        client.lpush(name, "c")
    client.lpush(names.inbox(last), "d", b'{"headers": {"sent_at": 60.25}}', b'{"headers": {"sent_at": 50.25}}'[::-1])
    client.zadd(names.delayed(last), {"x": 1, "y": 2})
    client.hset(names.parked(last), mapping={"k": "{}", "l": "{}", "m": "{}"})
    client.hset(names.dead(last), "1-0-0", "{}")
    client.hset(names.meta(last), mapping={"processed": 70, "failed": 6})
    client.hset(names.states(last, "one"), mapping={"k": "1", "l": "2"})
    client.hset(names.states(last, "two"), mapping={"k": "1"})
    client.hset(names.states(last, "unknown"), mapping={"k": "1"})
    client.lpush(names.queue("0"), "a")
    client.hset(names.states("2", "two"), mapping={"k": "1"})
    wrong = (names.queue, names.inbox, names.delayed, names.parked, names.dead, names.meta)
    for name in (*(one("1") for one in wrong), *names.priority_lists("1"), names.states("1", "one")):
        client.set(name, "text")
    return names


@pytest.fixture
def without_scripts(client: redis.Redis) -> Iterator[None]:
    client.execute_command("ACL SETUSER default -@scripting")
    yield
    client.execute_command("ACL SETUSER default +@all")


def check(found: dict[str, PartitionCounts | None], *, knows_sent: bool) -> None:
    sent = 70.5 if knows_sent else None
    assert found.pop(str(PARTITIONS - 1)) == PartitionCounts(2 + 3 + 3, 2, 3, 1, 3, sent, [b"70", None, b"6"])
    assert found.pop("0") == NOTHING._replace(waiting=1)
    assert found.pop("2") == NOTHING._replace(keys=1)
    odd = found.pop("1")
    assert odd is not None and odd._replace(meta=[None, None, None]) == NOTHING and not any(odd.meta)
    assert set(map(str, found.values())) == {str(NOTHING)}


def test_by_script(client: redis.Redis, filled: Names) -> None:
    check(counts(client, filled), knows_sent=True)
    client.lpop(filled.inbox(str(PARTITIONS - 1)))
    client.rpush(filled.inbox(str(PARTITIONS - 1)), b'{"headers": {"sent_at" : 3e1}}')
    found = counts(client, filled)[str(PARTITIONS - 1)]
    assert found is not None and found.sent == 30, "the inbox is older than the queue"


@pytest.mark.usefixtures("without_scripts")
def test_by_commands(client: redis.Redis, filled: Names) -> None:
    check(counts(client, filled), knows_sent=False)


def test_a_server_that_forgot_its_scripts_gets_the_script_again(client: redis.Redis, filled: Names) -> None:
    counts(client, filled)
    client.script_flush()
    check(counts(client, filled), knows_sent=True)
