"""`partitions state NAME KEY` and `partitions keys NAME`."""

from __future__ import annotations

import json
from collections.abc import Callable

import pytest
import redis

from celery_partitions.model.keys import partition_of
from tests.cli.conftest import Refused, Run
from tests.cli.declared import note, update

PutState = Callable[[str, float], None]


def test_a_state_is_shown_with_its_key_and_partition(run: Run, put_state: PutState) -> None:
    put_state("AAPL", 191.5)
    result = run("state", update.name, "AAPL", "--json")
    assert (result.exit_code, result.stderr) == (0, "")
    assert json.loads(result.stdout) == {
        "computation": update.name,
        "key": "AAPL",
        "partition": partition_of("AAPL", 4),
        "state": {"price": 191.5},
    }
    assert run("state", update.name, "AAPL").stdout.splitlines() == [
        f"{update.name}, key AAPL, partition {partition_of('AAPL', 4)}: Last",
        "  price = 191.5",
    ]


def test_keys_that_begin_with_a_text_are_found_page_by_page(run: Run, put_state: PutState, client: redis.Redis) -> None:
    client.hset("{partition}:group", f"computation:{update.name}", 1)
    for number in range(2100):
        put_state(f"a{number}", 1.0)
    put_state("b*", 1.0)
    put_state("b\x1b[31m", 1.0)
    assert sorted(run("keys", update.name, "--prefix", "b").stdout.splitlines()) == ["b*", "b\\x1b[31m"]
    assert run("keys", update.name, "--prefix", "b*").stdout.splitlines() == ["b*"]
    seen: list[str] = []
    after = ""
    while True:
        found = json.loads(run("keys", update.name, "--prefix", "a", "--limit", "500", "--after", after, "--json").stdout)
        seen += [key["key"] for key in found["keys"]]
        if found["more"] is None:
            break
        after = found["more"]
        assert len(found["keys"]) >= 500
    assert sorted(seen) == sorted(f"a{number}" for number in range(2100))
    assert "there may be more: add --after " in run("keys", update.name, "--prefix", "a").stderr
    assert run("keys", update.name, "--prefix", "a", "--hot").exit_code == 2


def test_a_key_without_state_is_exit_code_1(refused: Refused) -> None:
    refused("state", update.name, "AAPL", "--json", says="has no state for the key 'AAPL'")


def test_an_unreadable_state_is_a_one_line_error(refused: Refused, client: redis.Redis) -> None:
    client.hset(f"{{partition.{partition_of('AAPL', 4)}}}:state:{update.name}", "AAPL", b"\x09nonsense")
    refused("state", update.name, "AAPL", says="begins with the byte 0x09")


@pytest.mark.parametrize("command", [["state", "unknown", "k"], ["keys", "unknown"], ["send", "unknown", "-"]])
def test_an_unknown_name_is_refused_with_the_existing_names(refused: Refused, command: list[str]) -> None:
    refused(*command, says=["this app has no computation named 'unknown'", repr(update.name), repr(note.name)])


@pytest.mark.parametrize("command", [["state", note.name, "k"], ["keys", note.name]])
def test_a_computation_without_state_has_no_states_to_show(refused: Refused, command: list[str]) -> None:
    refused(*command, says="has no state")


def test_keys_are_printed_one_per_line(run: Run, put_state: PutState) -> None:
    keys = {f"k{number}" for number in range(50)} | {"é", "with space"}
    for key in keys:
        put_state(key, 1.0)
    assert set(run("keys", update.name).stdout.splitlines()) == keys
    assert {json.loads(line) for line in run("keys", update.name, "--json").stdout.splitlines()} == keys
    assert len(run("keys", update.name, "--limit", "7").stdout.splitlines()) == 7


def test_a_key_that_is_not_text_is_shown_by_its_bytes(run: Run, client: redis.Redis) -> None:
    client.hset(f"{{partition.0}}:state:{update.name}", b"\xff\n", b"")
    assert run("keys", update.name, "--json").stdout == '"\\\\xff\\n"\n'


def test_without_keys_nothing_is_printed(run: Run) -> None:
    result = run("keys", update.name)
    assert (result.exit_code, result.stdout) == (0, "")


def test_a_state_that_cannot_be_printed_is_shown_and_deleted(run: Run, put_state: PutState) -> None:
    """Python does not convert an int of more than 4300 digits to text."""
    put_state("AAPL", 10**5000)
    assert run("state", update.name, "AAPL").stdout.splitlines()[1:] == ["  price = (an int of 16,610 bits)"]
    result = run("state", "delete", update.name, "AAPL", "--yes", "--json")
    assert json.loads(result.stdout)["old"] == {"price": "(an int of 16,610 bits)"}
