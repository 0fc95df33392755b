"""`partitions status`: one row for each partition and for the ingress."""

from __future__ import annotations

import json

import click
import pytest
import redis
from celery import Celery

from celery_partitions.cli.commands import partitions
from celery_partitions.store.leases import balance
from celery_partitions.store.names import Names
from tests.cli.conftest import Refused, Run

FIELDS = {"queue", "owner", "server", "away", "refused_to", "length", "processed", "keys", "parked", "running", "dead", "paused", "delayed"}


def test_json_has_one_object_for_each_partition_and_the_ingress_with_exactly_these_fields(run: Run) -> None:
    result = run("status", "--json")
    rows = json.loads(result.stdout)
    assert (result.exit_code, result.stderr) == (0, "")
    assert [row["queue"] for row in rows] == ["partition.0", "partition.1", "partition.2", "partition.3", "partition"]
    assert all(row.keys() == FIELDS for row in rows)
    assert rows[0] == {**dict.fromkeys(FIELDS, 0), "queue": "partition.0", "owner": None, "paused": False, "away": False, "server": "", "refused_to": []}


def test_owner_and_counts_are_those_in_redis(run: Run, client: redis.Redis) -> None:
    balance(client, Names("partition"), "celery@host/1", lease_seconds=60, partitions=4, pins=["1"])
    client.lpush("partition.1", "a", "b")
    client.hset("{partition.1}:meta", mapping={"processed": 12345, "paused": 1})
    rows = {row["queue"]: row for row in json.loads(run("status", "--json").stdout)}
    one = rows["partition.1"]
    assert (one["owner"], one["length"], one["processed"], one["paused"]) == ("celery@host", 2, 12345, True)
    assert rows["partition.0"]["owner"] is None
    table = run("status").stdout
    assert "celery@host" in table and "12,345" in table and "yes" in table


def test_the_table_has_a_line_for_each_queue_and_every_field_for_people(run: Run) -> None:
    heading, *lines = run("status").stdout.splitlines()
    assert set(heading.split()) == FIELDS - {"refused_to", "server", "away"}
    assert [line.split()[0] for line in lines] == [f"partition.{number}" for number in range(4)] + ["partition"]


def test_messages_in_mailboxes_are_not_forgotten(run: Run, client: redis.Redis) -> None:
    assert "mailbox" not in run("status").stdout
    client.hset("{partition.1}:parked", mapping={"a": "{}", "b": "{}"})
    assert run("status").stdout.splitlines()[-1].startswith("2 keys parked or running: their later messages wait in mailboxes")


def test_another_n_is_refused_with_both_numbers(refused: Refused, client: redis.Redis) -> None:
    client.hset("{partition}:group", "partitions", 6)
    refused("status", says=["has 6 partitions", "PARTITIONS=4"])


def test_an_app_without_partitions_gets_instructions(refused: Refused) -> None:
    app = Celery("plain", broker="memory://", set_as_current=False)
    refused("status", app=app, says="'plain' has no partitions. Call celery_partitions.install(app)")


@pytest.mark.parametrize("words", [["nonsense"], ["status", "--nonsense"], ["state"], ["dead-letters", "nonsense"]])
def test_wrong_usage_is_exit_code_2(run: Run, words: list[str]) -> None:
    result = run(*words)
    assert (result.exit_code, result.stdout) == (2, "")


def test_every_command_has_a_help_text_and_a_summary(run: Run) -> None:
    def check(command: click.Command, words: list[str]) -> None:
        result = run(*words, "--help")
        assert result.exit_code == 0
        assert len(result.stdout.splitlines()[2].strip()) > 20
        assert command.short_help, words
        if isinstance(command, click.Group):
            for name, one in command.commands.items():
                check(one, [*words, name])
        elif words not in (["source"], ["sink"], ["flower"]):  # long-running processes, which print no data
            assert "--json" in result.stdout, words

    for name, one in partitions.commands.items():
        check(one, [name])
