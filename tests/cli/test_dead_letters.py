"""`partitions dead-letters list|show|retry|discard`."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import redis

from tests.cli.conftest import Refused, Run

Bury = Callable[..., str]


@pytest.fixture
def dead_letters(add_dead_letter: Bury) -> list[str]:
    """Two dead letters of partition 1, and one of the ingress with another reason."""
    raw = b'{"a": 1} \xff'
    one = add_dead_letter("1", 0, raw=raw, task="update", message_id="id-1", key="AAPL")
    return [one, add_dead_letter("1", 1, raw=b"second"), add_dead_letter("ingress", 0, reason="not-json", raw=b"third")]


def left(run: Run) -> list[str]:
    return sorted(row["id"] for row in json.loads(run("dead-letters", "list", "--json").stdout))


def test_list_shows_each_with_id_reason_and_error(run: Run, dead_letters: list[str]) -> None:
    heading, *lines = run("dead-letters", "list").stdout.splitlines()
    assert heading.split() == ["id", "died", "fingerprint", "reason", "task", "key", "in", "place", "error"]
    assert sorted(line.split()[0] for line in lines) == sorted(dead_letters)
    rows = json.loads(run("dead-letters", "list", "--json").stdout)
    assert [line.split()[0] for line in lines] == [row["id"] for row in rows]
    died = [row["died_at"] for row in rows]
    assert died == sorted(died, reverse=True)
    assert run("dead-letters", "list", "--limit", "1").stdout.splitlines()[1].split()[0] == rows[0]["id"]
    assert any("not-json" in line and "error 0" in line for line in lines)


def test_list_json_has_every_field_and_the_message_as_text(run: Run, dead_letters: list[str]) -> None:
    rows = {row["id"]: row for row in json.loads(run("dead-letters", "list", "--json").stdout)}
    assert rows.keys() == set(dead_letters)
    one = rows["1-0-0"]
    assert (one["partition"], one["task"], one["message_id"], one["key"]) == ("1", "update", "id-1", "AAPL")
    assert (one["reason"], one["error"], one["trace"], one["attempts"]) == ("bad-key", "error 0", "the trace", 1)
    assert one["message"] == '{"a": 1} \\xff'


def test_list_can_be_filtered(run: Run, dead_letters: list[str]) -> None:
    rows = json.loads(run("dead-letters", "list", "--json", "--reason", "not-json").stdout)
    assert [row["id"] for row in rows] == ["ingress-0-0"]
    assert len(json.loads(run("dead-letters", "list", "--json", "--limit", "2").stdout)) == 2


def test_one_of_a_computation_is_tried_first(run: Run, dead_letters: list[str], add_dead_letter: Bury) -> None:
    add_dead_letter("1", 2, raw=b"fourth", task="update")
    rows = json.loads(run("dead-letters", "list", "--json", "--computation", "update").stdout)
    assert sorted(row["id"] for row in rows) == ["1-0-0", "1-2-0"]
    assert json.loads(run("dead-letters", "retry", "--computation", "update", "--limit", "1", "--json").stdout)["retried"] == 1
    assert left(run) == ["1-1-0", "1-2-0", "ingress-0-0"]


def test_json_of_no_dead_letters_is_an_empty_list(run: Run) -> None:
    assert json.loads(run("dead-letters", "list", "--json").stdout) == []


def test_show_has_the_reason_the_trace_and_the_message(run: Run, dead_letters: list[str]) -> None:
    shown = run("dead-letters", "show", "1-0-0").stdout
    for text in ("bad-key", "error 0", "the trace", "AAPL", '{"a": 1} \\xff'):
        assert text in shown
    assert json.loads(run("dead-letters", "show", "1-0-0", "--json").stdout)["id"] == "1-0-0"


def test_retry_puts_the_named_ones_back_at_the_end_of_their_queue(
    run: Run, dead_letters: list[str], client: redis.Redis
) -> None:
    client.lpush("partition.1", "younger")
    result = run("dead-letters", "retry", "1-1-0", "1-0-0")
    assert (result.exit_code, result.stdout) == (0, "2 put back at the end of their queues\n")
    assert client.lrange("partition.1", 0, -1) == [b'{"a": 1} \xff', b"second", b"younger"]
    assert left(run) == ["ingress-0-0"]


def test_retry_puts_all_back_in_order_of_time(run: Run, add_dead_letter: Bury, client: redis.Redis) -> None:
    for number in range(40):
        add_dead_letter("1", number, raw=b"%d" % number)
    run("dead-letters", "retry", "--reason", "bad-key")
    assert client.lrange("partition.1", 0, -1)[::-1] == [b"%d" % number for number in range(40)]


@pytest.mark.parametrize(("chosen", "count"), [(["--all"], 3), (["--reason", "bad-key"], 2), (["--reason", "no"], 0)])
@pytest.mark.parametrize(("command", "field"), [(["retry"], "retried"), (["retry", "--yes"], "retried"), (["discard", "--yes"], "discarded")])
def test_retry_and_discard_select_all_or_those_with_a_reason(
    run: Run, dead_letters: list[str], command: list[str], field: str, chosen: list[str], count: int
) -> None:
    result = run("dead-letters", *command, *chosen, "--json")
    assert (result.exit_code, json.loads(result.stdout)[field]) == (0, count)
    assert len(left(run)) == 3 - count


def test_similar_failures_are_selected_by_fingerprint(run: Run, dead_letters: list[str]) -> None:
    rows = {row["id"]: row["fingerprint"] for row in json.loads(run("dead-letters", "list", "--json").stdout)}
    assert rows["1-1-0"] != rows["ingress-0-0"]
    listed = json.loads(run("dead-letters", "list", "--json", "--fingerprint", rows["ingress-0-0"]).stdout)
    assert [row["id"] for row in listed] == ["ingress-0-0"]
    assert json.loads(run("dead-letters", "discard", "--fingerprint", rows["1-1-0"], "--yes", "--json").stdout) == {
        "discarded": 1
    }
    assert left(run) == ["1-0-0", "ingress-0-0"]


def test_similar_failures_are_listed_together(run: Run, add_dead_letter: Bury) -> None:
    for number in range(3):
        add_dead_letter("1", number, raw=b"x")
    add_dead_letter("ingress", 0, reason="not-json")
    (first, second) = json.loads(run("dead-letters", "list", "--grouped", "--json").stdout)
    assert (first["count"], first["newest"]["reason"], second["count"]) == (3, "bad-key", 1)
    assert (second["newest"]["id"], second["in_place"]) == ("ingress-0-0", 0)
    heading, *lines = run("dead-letters", "list", "--grouped").stdout.splitlines()
    assert heading.split()[:2] == ["fingerprint", "count"]
    assert [line.split()[:2] for line in lines] == [[first["fingerprint"], "3"], [second["fingerprint"], "1"]]


def test_text_from_a_message_cannot_move_the_cursor(run: Run, add_dead_letter: Bury) -> None:
    add_dead_letter("1", 0, task="\x1b[31mred\n[bold]", key="a\tb")
    assert "\x1b" not in run("dead-letters", "show", "1-0-0").stdout
    (_, line) = run("dead-letters", "list").stdout.splitlines()
    assert "\\x1b[31mred\\n[bold]" in line and "a\\tb" in line


#: Besides ids. Regression: the other option was ignored, and a dead letter with another reason was deleted.
MORE = (["--reason", "not-json"], ["--fingerprint", "00000000"], ["--all"])


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["discard", "1-0-0"], 1, ["Delete 1 dead letter permanently?", "Pass --yes"]),
        *((words, 1, "there is no dead letter '1-9-9'") for words in (["show", "1-9-9"], ["retry", "1-0-0", "1-9-9"], ["discard", "--yes", "1-0-0", "1-9-9"])),
        *(([word], 2, "--all") for word in ("retry", "discard")),
        *(([*words, "1-0-0", *more], 2, "ids cannot be combined") for words in (["retry"], ["discard", "--yes"]) for more in MORE),
    ],
)
def test_what_is_refused_changes_nothing(refused: Refused, run: Run, dead_letters: list[str], words: list[str], code: int, says: Any) -> None:
    refused("dead-letters", *words, says=says, code=code, stdin="y\n")
    assert left(run) == sorted(dead_letters)


def test_discarded_messages_are_in_no_queue(run: Run, dead_letters: list[str], client: redis.Redis) -> None:
    run("dead-letters", "discard", "--all", "--yes")
    assert not client.exists("partition.1", "partition")


def test_a_foreign_record_can_be_shown_and_discarded_by_its_id(run: Run, client: redis.Redis) -> None:
    client.hset("{partition.1}:dead", "by hand", b"\x00\xff")
    (name,) = left(run)
    assert run("dead-letters", "show", name).exit_code == 0
    assert run("dead-letters", "discard", name, "--yes").exit_code == 0
    assert left(run) == []


def test_an_unwritable_queue_is_a_one_line_error_and_the_dead_letter_stays(
    refused: Refused, run: Run, dead_letters: list[str], client: redis.Redis
) -> None:
    client.set("partition.1", "text")
    refused("dead-letters", "retry", "1-0-0", says="WRONGTYPE")
    assert left(run) == sorted(dead_letters)


def test_the_last_retries_are_listed(run: Run, dead_letters: list[str]) -> None:
    assert json.loads(run("dead-letters", "retries", "--json").stdout) == []
    run("dead-letters", "retry", "--reason", "bad-key", "--limit", "1")
    (row,) = json.loads(run("dead-letters", "retries", "--json").stdout)
    assert (row["chosen"], row["done"], row["ended"], row["failed_again"], row["query"]) == (1, 1, True, 0, {"reason": "bad-key", "limit": 1})
    heading, line = run("dead-letters", "retries").stdout.splitlines()
    assert heading.split()[:3] == ["when", "by", "chosen"]
    assert "reason bad-key, limit 1" in line and "1 of 1" in line
