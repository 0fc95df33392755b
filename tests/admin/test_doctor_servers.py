"""What doctor says about several servers, as values: slots, skew, and the histories of sources and targets."""

from __future__ import annotations

import pytest

from celery_partitions.admin.doctor_servers import (
    better_moves,
    can_move_at_once,
    judge_chains,
    judge_migration,
    judge_spread,
)

EVEN = {"a": ["0", "3"], "b": ["1", "4"], "c": ["2", "5"]}
SERVERS = ["a", "b", "c"]
LINK = ("0", "1")


@pytest.mark.parametrize(
    ("info", "at_once"),
    [
        ({"redis_version": "7.2.4", "valkey_version": "9.1.2"}, True),
        ({"redis_version": "7.2.4", "valkey_version": "8.1.0"}, False),
        ({"redis_version": "8.4.0"}, True),
        ({"redis_version": "7.0.15"}, False),
        ({}, False),
    ],
)
def test_which_servers_move_a_slot_at_once(info: dict[str, str], at_once: bool) -> None:
    assert can_move_at_once(info) is at_once
    assert ("while few messages come" in judge_migration(at_once).text) is not at_once


def test_an_even_spread_is_fine() -> None:
    check = judge_spread(EVEN, SERVERS, dict.fromkeys("012345", 100), moves_at_once=True)
    assert (check.verdict, check.text) == ("ok", "partitions: a has 2, b has 2, c has 2")


def test_a_server_with_most_of_the_messages() -> None:
    processed = {"0": 500, "3": 400, "1": 50, "4": 50, "2": 10, "5": 10}
    check = judge_spread(EVEN, SERVERS, processed, moves_at_once=True)
    assert check.verdict == "warn"
    assert "a has processed 88% of the messages" in check.text
    assert "Move partition 3's slot to c" in check.text
    check = judge_spread(EVEN, SERVERS, processed, moves_at_once=False)
    assert "Use more partitions" in check.text and "not under load" in check.text


def test_a_server_without_partitions() -> None:
    check = judge_spread({"a": ["0", "1", "2", "3"], "b": ["4", "5"]}, SERVERS, {}, moves_at_once=True)
    assert check.verdict == "warn" and "c has 0" in check.text and "slot to c" in check.text


def test_moves_make_it_better_and_a_partition_with_everything_stays() -> None:
    assert better_moves({"a": ["0"], "b": ["1"]}, {"0": 1000, "1": 1}) == []
    at = {"a": ["0", "1", "2", "3"], "b": []}
    assert better_moves(at, dict.fromkeys("0123", 1)) == [("0", "b")]  # 3 to 1 is within what is tolerated


def test_histories() -> None:
    def verdict(has: str, tail: str, *, empty: bool = False, later: str | None = None) -> str:
        check = judge_chains({LINK: has}, {LINK: tail}, {"0"} if empty else set(), {LINK: has if later is None else later})
        return "ok" if check.verdict == "ok" else check.text.partition(". ")[0]

    assert verdict("7:a", "7:a", empty=True) == "ok"
    assert verdict("5:a", "7:b") == "ok"  # the rest is on its way
    assert verdict("5:a", "7:b", empty=True, later="7:b") == "ok"  # it arrived while doctor looked
    assert verdict("9:a", "7:b") == "1 has applied entry 9 of 0, which has written only 7: 0 has lost data"
    assert verdict("7:a", "7:b").endswith("one of them has lost data")
    assert verdict("5:a", "7:b", empty=True) == "1 lacks entries 6 to 7 of 0, which 0 no longer has: 1 has lost data"
