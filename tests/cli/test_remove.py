"""`partitions remove`: what a computation has left is deleted, and nothing else."""

from __future__ import annotations

import json

import redis

from celery_partitions.model.timers import alarm_entry
from celery_partitions.store.leases import balance, release
from celery_partitions.store.names import Names
from celery_partitions.store.worker_code import WorkerCode
from tests.cli.conftest import Run
from tests.cli.declared import update

NAMES = Names("partition")


def fill(client: redis.Redis) -> set[bytes]:
    """What "old" has left, beside another computation. Returns the keys in Redis of the other."""
    for name in ("older", "old @ other's"):
        client.hset(NAMES.states("1", name), "a", "x")
        client.hset(NAMES.group_meta, NAMES.computation_field(name), 1)
    client.zadd(NAMES.delayed("1"), {alarm_entry("older @ bell", "a"): 1, b"0.0:{}": 2})
    client.hset(NAMES.meta("1"), "processed", 7)
    before = set(client.keys())
    for number in range(1500):
        client.zadd(NAMES.delayed("1"), {alarm_entry("old @ bell", f"k{number}"): number})
    client.hset(NAMES.states("0", "old"), mapping={"a": "1", "b": "2"})
    client.hset(NAMES.meta("1"), mapping={"version:old": 2, "seen:old": 1})
    client.sadd(NAMES.deduplication("1", "old", "young"), "x")
    client.hset(NAMES.group_meta, mapping={NAMES.computation_field("old"): 1, NAMES.computation_field("old @ bell"): 1})
    client.hset(NAMES.policies, "old", "{}")
    client.lpush(NAMES.computation_history("old", "fine"), "x")
    return before  # type: ignore[return-value]


def test_all_that_it_has_left_is_deleted_and_nothing_else(run: Run, client: redis.Redis) -> None:
    before = fill(client)
    assert "Pass --yes" in run("remove", "old").stderr
    assert json.loads(run("remove", "old", "--yes", "--json").stdout) == {"computation": "old", "states": 2, "timers": 1500}
    assert set(client.keys()) - {NAMES.audit.encode()} == before | {NAMES.meta("0").encode()} & set(client.keys())  # type: ignore[operator]
    assert client.hgetall(NAMES.meta("1")) == {b"processed": b"7"}
    assert client.zcard(NAMES.delayed("1")) == 2
    assert b"computation:older" in client.hkeys(NAMES.group_meta) and b"computation:old" not in client.hkeys(NAMES.group_meta)  # type: ignore[operator]
    assert "remove computation" in run("audit").stdout
    assert "ever ran" in run("remove", "old", "--yes").stderr


def test_a_computation_that_somebody_knows_is_not_removed(run: Run, client: redis.Redis) -> None:
    fill(client)
    balance(client, NAMES, "one@h/1", lease_seconds=60, partitions=4, tasks=["old"], code=WorkerCode({"old": 1}))
    assert "'old' is known to one@h" in run("remove", "old", "--yes").stderr
    assert client.hlen(NAMES.states("0", "old")) == 2
    release(client, NAMES, "one@h/1", {}, leave=True)
    assert "Remove it from the code first" in run("remove", update.name, "--yes").stderr
