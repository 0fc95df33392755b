"""`partitions attention`: exit code 1 with what needs an operator, 0 without."""

from __future__ import annotations

import json

import redis

from celery_partitions.store.leases import balance
from celery_partitions.store.names import Names
from tests.cli.conftest import Run

NAMES = Names("partition")


def test_a_group_without_workers_needs_one(run: Run, client: redis.Redis) -> None:
    result = run("attention", "--json")
    assert result.exit_code == 1
    found = {one["rule"]: one for one in json.loads(result.stdout)}
    assert (found["no-owner"]["what"], found["no-owner"]["severity"]) == ("no worker is running", "critical")
    assert next(iter(found)) == "no-owner"
    text = run("attention").stdout
    assert "critical: no worker is running" in text
    assert "do:  Start workers" in text


def test_each_trouble_of_a_real_group_is_found(run: Run, client: redis.Redis) -> None:
    balance(client, NAMES, "one@h/u", lease_seconds=60, partitions=4)
    run("pause", "1")
    client.hset(NAMES.parked("2"), "k", json.dumps({"due": None, "attempt": 3, "error": "ValueError: no", "task": "t", "since": 5}))
    client.lpush(NAMES.mailbox("2", "k"), "x")  # type: ignore[arg-type]
    seconds = client.time()[0]  # type: ignore[index]
    client.hset(NAMES.meta("3"), "takeovers", f"{seconds}000")
    client.lpush(NAMES.queue("3"), "waits")
    client.rpush(NAMES.history("3", "fine"), *(f"{seconds - ago} 0 0 0 1 0 0 0 -1 -1" for ago in (10, 20, 60, 90)))
    found = {one["rule"]: one for one in json.loads(run("attention", "--json").stdout)}
    assert found.keys() >= {"paused", "parked", "takeovers", "stalled"}
    assert "no-owner" not in found
    assert "partition.1" in found["paused"]["what"] and "paused by" in found["paused"]["what"]
    assert "ValueError: no" in found["parked"]["what"]
    assert abs(found["stalled"]["since"] - (seconds - 90)) < 1


def test_nothing_needs_you(run: Run, client: redis.Redis) -> None:
    balance(client, NAMES, "one@h/u", lease_seconds=60, partitions=4)
    client.config_set("save", "3600 1")
    try:
        result = run("attention")
        assert (result.stdout, result.exit_code) == ("Nothing needs you.\n", 0)
        assert json.loads(run("attention", "--json").stdout) == []
    finally:
        client.config_set("save", "")  # other tests use this server
