"""The screen of `partitions top`, at any width."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
from rich.console import Console

from celery_partitions.cli.columns import Sort
from celery_partitions.cli.screen import draw
from celery_partitions.cli.view import View


def row(number: int | None, **more: Any) -> dict[str, Any]:
    return {
        "queue": "partition" if number is None else f"partition.{number}",
        "owner": "celery@a-host.example",
        "lease_age_seconds": 400.0,
        "waiting": 1_234,
        "delayed": 5,
        "oldest_age_seconds": 7.0,
        "in_per_second": 12_345.6,
        "done_per_second": 9_876.5,
        "history": [[float(t), 1.0, float(t), 2] for t in range(20)],
        "latency_p50_seconds": 0.0012,
        "latency_p99_seconds": 0.034,
        "keys": 250_000,
        "state_bytes": 52_000_000,
        "parked": 0,
        "dead_letters": 0,
        "last_error": None,
        "paused": False,
        **more,
    }


def found(rows: list[dict[str, Any]], **totals: Any) -> dict[str, Any]:
    summed = {**row(0), "partitions": len(rows), "held": len(rows), "workers": 2, **totals}
    return {"at": 0.0, "totals": summed, "partitions": rows}


def lines(
    what: dict[str, Any], width: int = 140, height: int | None = 24, sort: Sort | None = None, trouble: str = ""
) -> list[str]:
    console = Console(width=width, file=StringIO(), markup=False, emoji=False, highlight=False)
    console.print(draw(what, View(sort=sort), width=width, height=height, trouble=trouble))
    assert isinstance(console.file, StringIO)
    return [line.rstrip() for line in console.file.getvalue().splitlines()]


def words(text: str) -> list[str]:
    return text.split()


def table(found: list[str]) -> list[str]:
    return found[found.index("") + 1 :]


FOUR = [*map(row, range(4)), row(None)]


def test_at_140_columns_every_field_is_shown() -> None:
    heading, *rows = table(lines(found(FOUR), 150))
    assert heading.split() == words(
        "queue owner held waiting oldest in/s done/s 5 min p50 p99 keys state delayed parked dead"
    )
    assert rows[0].split()[:8] == ["partition.0", "celery@a-host.example", "7", "min", "1,234", "7", "s", "12,346"]
    assert "▁▂▂▃▄▅▆▇██" in rows[0]
    assert "34 ms" in rows[0] and "52 MB" in rows[0]


def test_at_80_columns_the_most_important_fields_are_shown() -> None:
    heading, *rows = table(lines(found(FOUR), 80))
    assert heading.split() == words("queue waiting oldest in/s done/s 5 min parked dead")
    assert [line.split()[0] for line in rows] == [
        "partition.0",
        "partition.1",
        "partition.2",
        "partition.3",
        "partition",
    ]


@pytest.mark.parametrize("width", [20, 40, 60, 79, 80, 100, 140, 200, 300])
@pytest.mark.parametrize("height", [4, 10, 24])
def test_no_line_is_wider_and_no_screen_longer_than_the_terminal(width: int, height: int) -> None:
    rows = [row(number, paused=number == 1, last_error={"text": "x" * 100}) for number in range(300)]
    shown = lines(found(rows), width, height)
    assert max(map(len, shown)) <= width
    assert len(shown) <= max(height, len(shown) - len(table(shown)) + 3), "at least one row, and the number of omitted ones"


def test_alarms_are_shown_on_top() -> None:
    totals = lines(found(FOUR, parked=3, dead_letters=2, paused=1, held=4), 80, trouble="Redis: gone\x1b[2J")
    summary = " ".join(totals[: totals.index("")])
    assert "parked 3" in summary and "dead 2" in summary and "paused 1" in summary and "no owner 1" in summary
    assert "Redis: gone\\x1b[2J" in summary


def test_a_paused_or_unowned_partition_is_marked() -> None:
    _, *rows = table(lines(found([row(0, paused=True), row(1, owner=None, lease_age_seconds=None), row(2)]), 160))
    assert rows[0].split()[:2] == ["partition.0", "paused"]
    assert rows[1].split()[:5] == ["partition.1", "no", "owner", "-", "–"]
    assert rows[2].split()[:2] == ["partition.2", "celery@a-host.example"]


def test_text_from_workers_cannot_move_the_cursor() -> None:
    shown = "\n".join(lines(found([row(0, owner="a\x1b[2J\nb", last_error={"text": "c\x07\nd"})]), 300))
    assert "\x1b" not in shown and "\x07" not in shown
    assert "a\\x1b[2J\\nb" in shown and "c\\x07\\nd" in shown


def test_an_unknown_value_is_a_dash() -> None:
    unknown = dict.fromkeys(
        (
            "in_per_second",
            "done_per_second",
            "latency_p50_seconds",
            "latency_p99_seconds",
            "state_bytes",
            "oldest_age_seconds",
        )
    )
    heading, first = table(lines(found([row(0, history=[], **unknown)], history=[], **unknown)))
    assert "5 min" not in heading and "p99" not in heading
    assert first.split() == words("partition.0 celery@a-host.example 7 min 1,234 – – – 250k – 5 0 0")


@pytest.mark.parametrize(
    ("sort", "order"),
    [("name", [0, 1, 2]), ("backlog", [1, 0, 2]), ("rate", [2, 1, 0]), ("oldest", [2, 0, 1])],
)
def test_the_order(sort: Sort, order: list[int]) -> None:
    rows = [
        row(0, waiting=5, done_per_second=None, oldest_age_seconds=3.0),
        row(1, waiting=9, done_per_second=2.0, oldest_age_seconds=None),
        row(2, waiting=5, done_per_second=3.0, oldest_age_seconds=4.0),
    ]
    _, *shown = table(lines(found(rows), sort=sort))
    assert [line.split()[0] for line in shown] == [f"partition.{number}" for number in order]


def test_if_not_all_rows_fit_the_largest_backlogs_are_shown() -> None:
    rows = [row(number, waiting=number) for number in range(100)]
    _, first, *rest, last = table(lines(found(rows), height=20))
    assert first.startswith("partition.99 ")
    assert last == f"and {100 - 1 - len(rest)} more, by backlog"
    assert len(table(lines(found(rows), height=None))) == 101


def test_what_needs_an_operator_comes_first() -> None:
    one = {"severity": "critical", "what": "partition.3 stalled\n\x1b[31m", "why": "9 messages wait", "since": -40.0}
    drawn = lines({**found(FOUR), "attention": [one]})
    assert drawn[0].startswith("! partition.3 stalled\\n\\x1b[31m, for 40 s  9 messages wait")
    many = lines({**found(FOUR), "attention": [{**one, "what": f"trouble {number}"} for number in range(30)]}, width=60)
    assert sum(line.startswith("! trouble") for line in many) == 24 // 3 - 1
    assert "! and 23 more" in "\n".join(many)
    assert max(map(len, many)) <= 60
    stalled = row(0, state="stalled")
    assert "stalled" in "\n".join(table(lines(found([stalled]))))
