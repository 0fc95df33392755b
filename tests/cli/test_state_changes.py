"""`partitions state get|set|delete` and `partitions audit`."""

from __future__ import annotations

import base64
import json
import os
import pwd
import socket
from collections.abc import Callable

import pytest
import redis

from celery_partitions.model.keys import partition_of
from tests.cli.conftest import Refused, Run
from tests.cli.declared import note, update

PutState = Callable[[str, float], None]


def test_state_without_a_subcommand_is_state_get(run: Run, put_state: PutState) -> None:
    put_state("AAPL", 191.5)
    assert run("state", "get", update.name, "AAPL").stdout == run("state", update.name, "AAPL").stdout
    as_json = run("state", "get", update.name, "AAPL", "--json").stdout
    assert as_json == run("state", update.name, "AAPL", "--json").stdout
    assert as_json == run("state", "--json", update.name, "AAPL").stdout


def test_set_creates_a_state_and_prints_old_and_new(run: Run) -> None:
    result = run("state", "set", update.name, "AAPL", '{"price": 5}', "--yes", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    expected = {"computation": update.name, "key": "AAPL", "partition": partition_of("AAPL", 4)}
    assert json.loads(result.stdout) == {**expected, "old": None, "new": {"price": 5.0}}
    assert json.loads(run("state", update.name, "AAPL", "--json").stdout) == {**expected, "state": {"price": 5.0}}
    deleted = run("state", "delete", update.name, "AAPL", "--yes", "--json")
    assert json.loads(deleted.stdout) == {**expected, "old": {"price": 5.0}, "new": None}
    assert run("state", update.name, "AAPL").exit_code == 1


@pytest.mark.parametrize(
    ("new", "words"),
    [('{"price": "x"}', "$.price"), ('{"prize": 1}', "prize"), ("nonsense", "not JSON"), ("[]", "JSON object")],
)
def test_a_value_that_does_not_fit_is_refused_and_nothing_is_written(refused: Refused, client: redis.Redis, new: str, words: str) -> None:
    refused("state", "set", update.name, "AAPL", new, "--yes", says=words)
    assert list(client.scan_iter("{partition.*}:state:*")) == []


def test_missing_fields_keep_their_values_unless_the_state_is_replaced(run: Run, put_state: PutState) -> None:
    put_state("AAPL", 191.5)
    result = run("state", "set", update.name, "AAPL", "{}", "--yes", "--json")
    assert json.loads(result.stdout)["new"] == {"price": 191.5}
    result = run("state", "set", update.name, "AAPL", "{}", "--replace", "--yes", "--json")
    assert json.loads(result.stdout)["new"] == {"price": 0.0}


def test_fields_of_an_unreadable_state_cannot_be_kept_and_nothing_is_written(
    run: Run, refused: Refused, client: redis.Redis
) -> None:
    """Regression: missing fields were silently reset to their defaults."""
    name = f"{{partition.{partition_of('AAPL', 4)}}}:state:{update.name}"
    client.hset(name, "AAPL", b"\x09nonsense")
    refused("state", "set", update.name, "AAPL", "{}", "--yes", says=["Replace the whole state", "begins with the byte 0x09"])
    assert client.hget(name, "AAPL") == b"\x09nonsense"
    assert run("state", "set", update.name, "AAPL", "{}", "--replace", "--yes").exit_code == 0, "it can still be replaced completely"


def test_deleting_a_missing_state_is_refused(refused: Refused) -> None:
    refused("state", "delete", update.name, "AAPL", "--yes", says="no state for the key 'AAPL'")


@pytest.mark.parametrize("command", [["set", note.name, "k", "{}"], ["delete", note.name, "k"], ["get", "unknown", "k"]])
def test_a_computation_without_states_is_refused(run: Run, command: list[str]) -> None:
    assert run("state", *command).exit_code == 1


@pytest.mark.parametrize("key", ["é", "two\nlines", "\udcff\x00", "", "set", "a b", "-x"])
def test_any_key_can_be_named_as_text_and_in_base64(run: Run, put_state: PutState, key: str) -> None:
    raw = key.encode("utf-8", "surrogateescape")
    in_base64 = base64.b64encode(raw).decode()
    assert run("state", "set", "--yes", "--", update.name, key, '{"price": 2}').exit_code == 0
    found = json.loads(run("state", "get", "--json", "--base64", "--", update.name, in_base64).stdout)
    assert found["state"] == {"price": 2.0}
    assert found.get("key_base64", in_base64) == in_base64
    shown = run("state", "get", "--", update.name, key).stdout
    assert len(shown.splitlines()) == 2, "one line for the key, whatever characters it contains"
    assert run("state", "delete", "--yes", "--base64", "--", update.name, in_base64).exit_code == 0


def test_invalid_base64_is_wrong_usage(run: Run) -> None:
    assert run("state", "get", update.name, "%%%", "--base64").exit_code == 2


def test_the_audit_says_who_changed_what(run: Run) -> None:
    assert json.loads(run("audit", "--json").stdout) == []
    run("state", "set", update.name, "AAPL", '{"price": 5}', "--yes")
    run("state", "set", update.name, "AAPL", '{"price": 6}', "--yes")
    run("pause", "1")
    rows = json.loads(run("audit", "--json", "--limit", "2").stdout)
    assert [row["what"] for row in rows] == ["pause", "state set"]
    me = f"{pwd.getpwuid(os.getuid()).pw_name}@{socket.gethostname()}"
    assert [row["who"] for row in rows] == [me, me]
    assert (rows[1]["detail"]["old"], rows[1]["detail"]["new"]) == ({"price": 5.0}, {"price": 6.0})
    heading, *lines = run("audit").stdout.splitlines()
    assert heading.split() == ["when", "who", "what", "detail"]
    assert me in lines[0]
