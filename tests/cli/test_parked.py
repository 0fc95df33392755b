"""`partitions parked list|retry|skip|discard`, `partitions keys --parked` and `--hot`."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import pytest
import redis

from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.keys import key_bytes, partition_of
from celery_partitions.model.own_lines import own_line
from celery_partitions.store.leases import remember_computations
from celery_partitions.store.names import Names
from tests.cli.conftest import Refused, Run
from tests.cli.declared import note, update

Park = Callable[..., None]
NAMES = Names("partition")


@pytest.fixture
def park(client: redis.Redis) -> Park:
    """Park a key with messages `<key>-1`, `<key>-2`, …"""

    def park(key: str, messages: int = 2, task: str = update.name, line: bool = False, **fact: object) -> None:
        partition = str(partition_of(key, 4))
        known = {"due": 2e12, "attempt": 2, "error": f"ValueError: {key!a:.20}", "task": task, "since": 5.0, **fact}
        remember_computations(client, NAMES, [task])
        key = own_line(key, task) if line else key
        client.hset(NAMES.parked(partition), key_bytes(key), msgspec.json.encode(ParkedKey(**known)))  # type: ignore[arg-type]
        for number in range(1, messages + 1):
            client.lpush(NAMES.mailbox(partition, key), key_bytes(f"{key}-{number}"))  # type: ignore[arg-type]

    return park


def listed(run: Run) -> dict[str, dict[str, object]]:
    return {row["key"]: row for row in json.loads(run("parked", "list", "--json").stdout)}


def test_list_has_waiting_messages_since_when_and_why(run: Run, park: Park) -> None:
    park("b", 3, since=6.0, due=None)
    park("a")
    rows = json.loads(run("parked", "list", "--json").stdout)
    assert [row["key"] for row in rows] == ["a", "b"], "the longest waiting first"
    one = rows[1]
    assert (one["waiting"], one["held"], one["due"], one["attempt"], one["since"]) == (3, True, None, 2, 6.0)
    assert [row["reason"] for row in rows] == ["retry", "hold"]
    assert (one["error"], one["task"], one["partition"]) == ("ValueError: 'b'", update.name, partition_of("b", 4))
    heading, first, second = run("parked", "list").stdout.splitlines()
    assert heading.split() == ["key", "task", "holds", "partition", "waiting", "why", "for", "try", "due", "error"]
    assert "in " in first and "held" in second
    assert len(json.loads(run("parked", "list", "--json", "--limit", "1").stdout)) == 1


def test_own_lines_are_listed_and_retried_with_their_key(run: Run, park: Park) -> None:
    park("a", 1)
    park("a", 2, line=True)
    rows = json.loads(run("parked", "list", "--json").stdout)
    assert [(row["of_key"], row["holds"], row["waiting"]) for row in rows] == [("a", "key", 1), ("a", "computation", 2)]
    assert "computation" in run("parked", "list").stdout and "\x1f" not in run("parked", "list").stdout
    assert json.loads(run("parked", "retry", "a", "--json").stdout) == {"retried": 2}
    assert json.loads(run("parked", "skip", "a", "--yes", "--json").stdout) == {"skipped": 2}
    (dead, _) = json.loads(run("dead-letters", "list", "--json").stdout)
    assert dead["key"] == "a"


def test_retry_makes_it_due_now(run: Run, park: Park, client: redis.Redis) -> None:
    park("a")
    assert json.loads(run("parked", "retry", "a", "--json").stdout) == {"retried": 1}
    due = listed(run)["a"]["due"]
    assert isinstance(due, float) and abs(due - client.time()[0]) < 60


@pytest.mark.parametrize(("command", "field", "dead_letters"), [("skip", "skipped", 1), ("discard", "discarded", 0)])
def test_after_skip_or_discard_the_key_continues_with_the_next_message(
    run: Run, refused: Refused, park: Park, client: redis.Redis, command: str, field: str, dead_letters: int
) -> None:
    park("a")
    assert json.loads(run("parked", command, "a", "--yes", "--json").stdout) == {field: 1}
    mailbox = NAMES.mailbox(str(partition_of("a", 4)), "a")
    assert client.lrange(mailbox, 0, -1) == [b"a-2"]  # type: ignore[arg-type]
    assert len(json.loads(run("dead-letters", "list", "--json").stdout)) == dead_letters
    refused("parked", command, "a", "--yes", says="has not failed yet")
    assert client.lrange(mailbox, 0, -1) == [b"a-2"]  # type: ignore[arg-type]


@pytest.mark.parametrize("command", [["retry"], ["skip", "--yes"], ["discard", "--yes"]])
def test_all_keys_and_several_and_unusual_keys(run: Run, park: Park, command: list[str]) -> None:
    for key in ("a", "two\nlines", "\udcff"):
        park(key, 1)
    field = {"retry": "retried", "skip": "skipped", "discard": "discarded"}[command[0]]
    assert json.loads(run("parked", *command, "a", "two\nlines", "--json").stdout) == {field: 2}
    assert json.loads(run("parked", *command, "--all", "--json").stdout) == {field: 3 if command == ["retry"] else 1}


@pytest.mark.parametrize("command", [["retry"], ["skip", "--yes"], ["discard", "--yes"]])
def test_a_key_that_is_not_parked_is_refused_and_nothing_is_changed(run: Run, refused: Refused, park: Park, command: list[str]) -> None:
    park("a")
    before = listed(run)
    refused("parked", *command, "a", "b", says="the key 'b' is not parked")
    refused("parked", *command, code=2)
    refused("parked", *command, "a", "--all", code=2)
    assert listed(run) == before


def test_an_in_place_dead_letter_is_retried_in_place(run: Run, park: Park, client: redis.Redis) -> None:
    park("a", dead_letter="x-1", due=None)
    partition = str(partition_of("a", 4))
    dead_letter = {"id": "x-1", "partition": partition, "reason": "computation-failed", "error": "e", "trace": "", "task": update.name}
    more = {"message_id": "i", "key": "a", "attempts": 4, "died_at": 1.0, "raw": "YS0x", "in_place": True}
    client.hset(NAMES.dead(partition), "x-1", json.dumps({**dead_letter, **more}))
    result = run("dead-letters", "retry", "x-1")
    assert (result.exit_code, result.stdout) == (0, "1 will be retried in place\n")
    assert listed(run)["a"]["due"] is not None
    assert not client.exists(NAMES.queue(partition))


def test_keys_parked_are_those_of_the_computation(run: Run, park: Park) -> None:
    park("a")
    park("b", task=note.name)
    rows = json.loads(run("keys", update.name, "--parked", "--json").stdout)
    assert [row["key"] for row in rows] == ["a"]
    assert "ValueError: 'b'" in run("keys", note.name, "--parked").stdout
    assert run("keys", note.name, "--parked", "--hot").exit_code == 2


def test_hot_keys_report_the_size_of_the_sample(run: Run) -> None:
    rows = "\n".join(['{"key": "hot"}'] * 30 + ['{"key": "cold"}'] * 2)
    assert run("send", note.name, "-", stdin=rows).exit_code == 0
    found = json.loads(run("keys", note.name, "--hot", "--json").stdout)
    assert (found["sampled"], found["waiting"]) == (32, 32)
    assert [(row["key"], row["messages"]) for row in found["keys"]] == [("hot", 30), ("cold", 2)]
    summary, heading, first, _ = run("keys", note.name, "--hot").stdout.splitlines()
    assert summary == "32 of 32 waiting messages sampled"
    assert (heading.split()[0], first.split()) == ("key", ["hot", str(partition_of("hot", 4)), "30", "94"])
    assert len(json.loads(run("keys", note.name, "--hot", "--json", "--limit", "1").stdout)["keys"]) == 1
    assert json.loads(run("keys", note.name, "--hot", "--json", "--sample", "10").stdout)["sampled"] < 32
