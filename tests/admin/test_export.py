"""Exports of a group that works meanwhile. Files are consistent."""

from __future__ import annotations

import base64
import json
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.pause import pause
from celery_partitions.model.outcome import Outcome
from celery_partitions.store.commits import CommitStore
from celery_partitions.store.leases import Lease
from celery_partitions.store.names import INGRESS, Names, partitions_and_ingress
from celery_partitions.store.topology import agree_on_topology
from tests.admin.exported_group import exported, fill_group, message
from tests.store.declared import commands_of_outcome, commit_of


def test_the_file_is_readable_by_its_owner_and_appears_only_when_complete(client: redis.Redis, names: Names, file: Path) -> None:
    fill_group(client, names, 4)
    exported(client, names, 4, file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    client.set(names.parked("3"), "text")
    other = file.with_name("other")
    with pytest.raises(redis.ResponseError):
        exported(client, names, 4, other)
    assert sorted(path.name for path in file.parent.iterdir()) == [file.name]


class Busy(redis.Redis):
    """While the export reads partition 2, its worker commits as long as it is allowed to."""

    lease: Lease
    commits = 0
    limit = 10**9

    def execute_command(self, *args: object, **options: object) -> object:
        if args[0] == "HSCAN" and args[1] == "{partition.2}:parked" and self.commits < self.limit:
            names = Names("partition")
            own = redis.Redis(connection_pool=self.connection_pool)
            paused = own.hget(names.meta("2"), "paused")
            # A worker commits the batch that was running when its partition was paused, then stops.
            if paused is None or not self.__dict__.get("last"):
                self.last = paused is not None
                self.commits += 1
                write = [["HSET", names.states("2", "totals"), "k", b"1" * 200_000 if self.commits == 1 else b"2"]]
                store = CommitStore(own, names, batch_messages=1, batch_bytes=1000)
                assert store.send(commit_of(self.lease, [], commit_number=None, commands=write)).status == "ok"
        return super().execute_command(*args, **options)


@pytest.fixture
def busy(redis_url: str, lease: Lease) -> Iterator[Busy]:
    client = Busy.from_url(redis_url)
    client.lease = lease
    yield client
    client.close()


def state_of_k(file: Path) -> list[bytes]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [base64.b64decode(row["state"]) for row in rows if row["kind"] == "state" and row["key"] == "aw=="]


def test_a_partition_that_changes_while_it_is_read_is_paused_and_read_again(
    busy: Busy, client: redis.Redis, names: Names, file: Path
) -> None:
    fill_group(client, names, 4)
    exporter = exported(busy, names, 4, file)
    assert (exporter.paused, client.hget(names.meta("2"), "paused")) == (["2"], None)
    # One commit happened during the first read, one more while it was paused. The file has the state after both, once,
    # and nothing from the first, longer attempt.
    assert (busy.commits, state_of_k(file)) == (2, [b"2"])


def test_with_pause_all_an_output_of_a_running_batch_is_in_the_file_once(
    client: redis.Redis, names: Names, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch that was running when all partitions were paused sends a message to a partition that was already written."""
    fill_group(client, names, 4)
    client.lpush(names.queue("3"), message("cause", 0))
    sound, commits = Exporter._write_partition, [1]

    def write_partition(exporter: Exporter, stream: Any, partition: str) -> int:
        if partition == "2" and commits:
            commits.clear()
            client.lpop(names.queue("3"))
            client.lpush(names.queue("0"), message("hop", 1))
            client.hincrby(names.meta("3"), "commit_number", 1)
        return sound(exporter, stream, partition)

    monkeypatch.setattr(Exporter, "_write_partition", write_partition)
    exported(client, names, 4, file, pause_all=True)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    written = [base64.b64decode(row["message"]) for row in rows if row["kind"] == "message"]
    assert (written.count(message("cause", 0)), written.count(message("hop", 1))) == (0, 1)
    assert rows[-1] == {"kind": "end", "records": len(rows) - 2}


def test_with_pause_all_every_partition_is_paused_and_already_paused_ones_stay_paused(
    client: redis.Redis, names: Names, file: Path
) -> None:
    fill_group(client, names, 4)
    assert sorted(exported(client, names, 4, file, pause_all=True).paused) == ["0", "2", "3", INGRESS]
    assert [client.hget(names.meta(partition), "paused") for partition in partitions_and_ingress(4)] == [None, b"1", None, None, None]


def test_partitions_paused_by_an_operator_or_a_policy_during_an_export_stay_paused(
    client: redis.Redis, names: Names, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill_group(client, names, 4)
    sound, paused = Exporter._write_partitions, list[str]()

    def write_partitions(exporter: Exporter, stream: Any, all_partitions: list[str]) -> int:
        paused.extend(pause(client, names, ["0", "2"], by="me"))
        for command in commands_of_outcome(Outcome(pause=True), names, "3", 0, 0.0):
            client.execute_command(*command)
        return sound(exporter, stream, all_partitions)

    monkeypatch.setattr(Exporter, "_write_partitions", write_partitions)
    exported(client, names, 4, file, pause_all=True)
    assert paused == ["0", "2"], "the operator's call must report these as paused now"
    assert [client.hget(names.meta(partition), "paused") for partition in partitions_and_ingress(4)] == [b"1", b"1", b"1", b"1", None]
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    assert {row["partition"]: row["values"].get("paused") for row in rows if row["kind"] == "meta"} == {
        **{str(number): "1" for number in range(4)},
        INGRESS: None,
    }


def test_messages_that_arrive_while_a_queue_is_read_do_not_shift_it(client: redis.Redis, names: Names, file: Path) -> None:
    agree_on_topology(client, names, 4)
    client.lpush(names.queue("0"), *(b"%d" % number for number in range(2500)))

    class Pushing(redis.Redis):
        def execute_command(self, *args: object, **options: object) -> object:
            if args[0] == "LRANGE":
                super().execute_command("LPUSH", args[1], "new", "newer")
            return super().execute_command(*args, **options)

    with Pushing(connection_pool=client.connection_pool) as pushing:
        exported(pushing, names, 4, file)
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    found = [base64.b64decode(row["message"]) for row in rows if row["kind"] == "message"]
    assert found == [b"%d" % number for number in range(2500)]
