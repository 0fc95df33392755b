"""What works on one server works on a cluster."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from celery import Celery
from click.testing import Result

from celery_partitions import aclose
from celery_partitions.admin.doctor_servers import judge_outboxes
from celery_partitions.admin.overview import read_overview
from celery_partitions.admin.pause import pause, resume
from celery_partitions.runtime.registry import current_group
from celery_partitions.store.servers import Servers
from tests.cluster.conftest import invoke
from tests.fundamentals.application import Attempt, Step, fail, record
from tests.fundamentals.live import PATIENCE_SECONDS, LiveGroup
from tests.producer.conftest import MakeApp
from tests.support.cluster import RedisCluster
from tests.support.coroutines import run_apart
from tests.support.server import RedisServer
from tests.support.wait import wait_until

Run = Callable[..., Result]


def wait_for(live: LiveGroup, key: str, numbers: list[int]) -> None:
    wait_until(lambda: live.numbers_of(record, key) == numbers, PATIENCE_SECONDS, message=f"not {numbers}")


def test_messages_of_all_partitions_in_order(shared: LiveGroup, key: str) -> None:
    keys = [f"{key}-{number}" for number in range(60)]
    shared.send(record, [Step(one, number) for number in range(70) for one in keys])
    for one in keys:
        wait_for(shared, one, list(range(70)))
    servers = shared.client
    assert isinstance(servers, Servers)
    assert len({servers.address(shared.names.queue(str(shared.group.topology.partition_of(one)))) for one in keys}) == 3


def test_every_way_to_send(shared: LiveGroup, app: Celery, key: str) -> None:
    record.delay(Step(key, 1))
    wait_for(shared, key, [1])

    async def run() -> None:
        await record.adelay(Step(key, 2))
        await record.asend_many([Step(key, 3), Step(key, 4)])
        assert (await record.astate(key)) is not None
        await aclose()

    run_apart(run())
    wait_for(shared, key, [1, 2, 3, 4])


def test_failures_retries_and_delays(shared: LiveGroup, run: Run, key: str) -> None:
    fail.send_many([Attempt(key, 1), Attempt(key, 2, fail=True), Attempt(key, 3)])
    wait_until(lambda: shared.numbers_of(fail, key) == [1, 3], PATIENCE_SECONDS)
    (letter,) = (one for one in shared.dead_letters() if one.key == key)
    listed = json.loads(run("dead-letters", "list", "--json").stdout)
    assert letter.id in json.dumps(listed)
    assert shared.group.dead_letters.retry([letter], by="test") == 1
    wait_until(lambda: any(one.key == key and one.id != letter.id for one in shared.dead_letters()), PATIENCE_SECONDS)


def test_an_operator_reads_and_edits(shared: LiveGroup, run: Run, key: str) -> None:
    record.send_many([Step(key, 1)])
    wait_for(shared, key, [1])
    assert json.loads(run("state", "get", "record", key, "--json").stdout)["state"]["numbers"] == [1]
    assert run("state", "set", "record", key, '{"numbers": [7]}', "--yes").exit_code == 0
    record.send_many([Step(key, 8)])
    wait_for(shared, key, [7, 8])
    assert key in run("keys", "record").stdout
    audit = run("audit").stdout
    assert "state set" in audit
    assert record.forget(key)
    record.send_many([Step(key, 9)])
    wait_for(shared, key, [9])
    rows = json.loads(run("status", "--json").stdout)
    assert sum(row["processed"] for row in rows) >= 3


def test_a_paused_partition_waits_and_a_resumed_one_continues(shared: LiveGroup, app: Celery, key: str) -> None:
    client, names = shared.client, shared.names
    partition = str(shared.group.topology.partition_of(key))
    every = [str(number) for number in range(6)]
    assert pause(client, names, every, by="test") == every
    wait_until(lambda: all(row.paused for name, row in shared.status().items() if name != "partition"))
    record.delay(Step(key, 1))
    assert shared.status()[names.queue_name(partition)].length == 1
    assert resume(client, names, every, by="test") == every
    wait_for(shared, key, [1])
    assert [one.what for one in shared.group.audit.last(1)] == ["resume"]


def test_an_export_of_a_cluster_goes_into_one_server_and_back(
    shared: LiveGroup, cluster: RedisCluster, run: Run, make_app: MakeApp, key: str, tmp_path: Path
) -> None:
    record.send_many([Step(key, 1)])
    wait_for(shared, key, [1])
    first, second = tmp_path / "first", tmp_path / "second"
    assert run("export", str(first), "--yes").exit_code == 0
    with RedisServer() as one, RedisServer() as control:
        settings = replace(shared.settings, redis_url=one.url(), partitions_url="")
        there = invoke(make_app(one.url(), settings))
        assert there("import", str(first), "--yes").exit_code == 0
        assert record.state(key).numbers == [1]
        assert there("export", str(second), "--yes").exit_code == 0
        back = invoke(make_app(control.url(), replace(shared.settings, redis_url=control.url(), group="imported")))
        assert back("import", str(second), "--yes").exit_code == 0
        assert record.state(key).numbers == [1]
        assert back("import", str(second), "--replace", "--yes").exit_code == 0
        assert record.state(key).numbers == [1]
        assert {row.server for row in current_group().status()} == {"", *(f"{server.host}:{server.port}" for server in cluster.primaries)}


def test_doctor_and_the_overview(shared: LiveGroup, run: Run) -> None:
    report = run("doctor", "--json")
    checks = json.loads(report.stdout)
    assert not [one for one in checks if one["verdict"] == "bad"], report.stdout
    assert sum(one["subject"].startswith("server ") for one in checks) == 3
    assert any(one["subject"] == "spread" and "has 2" in one["text"] for one in checks), report.stdout
    assert [one["verdict"] for one in checks if one["subject"] == "outboxes"] == ["ok"]
    assert judge_outboxes({"partition.1": 1, "partition.2": 1900}).verdict == "bad"
    overview = read_overview(shared.group)
    assert [one.status.owner is not None for one in overview.partitions] == [True] * 7
