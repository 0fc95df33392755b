"""Draws the screen of `partitions top`: totals, then as many columns and rows as fit the terminal. No I/O."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from celery_partitions.admin.numbers import counted, number, size, span
from celery_partitions.cli.sparkline import sparkline
from celery_partitions.model.escaping import escape

Row = Mapping[str, Any]
Sort = Literal["backlog", "rate", "oldest", "name"]

#: Spaces between two columns.
GAP = 2
#: Longer queue and node names are cut.
MAX_NAME = 28
#: A sparkline takes the rest of the line, within these bounds: a shorter one is unreadable, a longer one has no more points.
MIN_SPARK, MAX_SPARK = 8, 30


@dataclass(frozen=True)
class Column:
    """One column. `width` is in characters; 0 means as wide as its content, up to `MAX_NAME`."""

    name: str
    width: int
    cell: Callable[[Row], str]
    right: bool = True
    #: A value above zero needs an operator.
    alarm: bool = False


def _queue(row: Row) -> str:
    return escape(row["queue"])


def _state(row: Row) -> str:
    """The trouble that an operator must see first; empty if there is none."""
    if row["paused"]:
        return "paused"
    if not row["owner"]:
        return "no owner"
    return {"stalled": "stalled", "falling behind": "behind"}.get(row.get("state", ""), "")


def _error(row: Row) -> str:
    error = row["last_error"]
    return "" if error is None else escape(str(error["text"]))


def _latency(seconds: float | None) -> str:
    """Empty if no message was measured."""
    return "" if seconds is None else span(seconds)


#: All columns, from left to right.
COLUMNS = (
    Column("queue", 0, _queue, right=False),
    Column("", 8, _state, right=False),
    Column("owner", 0, lambda row: escape(row["owner"] or "-"), right=False),
    Column("held", 6, lambda row: span(row["lease_age_seconds"])),
    Column("waiting", 8, lambda row: number(row["waiting"])),
    Column("oldest", 6, lambda row: span(row["oldest_age_seconds"])),
    Column("in/s", 7, lambda row: number(row["in_per_second"])),
    Column("done/s", 7, lambda row: number(row["done_per_second"])),
    Column("5 min", MIN_SPARK, lambda row: sparkline(done_of(row), MAX_SPARK), right=False),
    Column("p50", 6, lambda row: _latency(row["latency_p50_seconds"])),
    Column("p99", 6, lambda row: _latency(row["latency_p99_seconds"])),
    Column("keys", 8, lambda row: number(row["keys"])),
    Column("state", 7, lambda row: size(row["state_bytes"])),
    Column("delayed", 7, lambda row: number(row["delayed"])),
    Column("parked", 6, lambda row: number(row["parked"]), alarm=True),
    Column("dead", 6, lambda row: number(row["dead_letters"]), alarm=True),
    Column("last error", 20, _error, right=False),
)
#: The order in which columns get room on a narrow terminal.
DEAREST = (
    "queue", "waiting", "done/s", "", "in/s", "oldest", "5 min", "dead", "parked", "p99",
    "owner", "keys", "last error", "p50", "state", "delayed", "held",
)  # fmt: skip


#: Columns that are left out if no row has a value.
OFTEN_EMPTY = {"", "5 min", "p50", "p99", "last error"}


def draw(
    found: Mapping[str, Any], *, sort: Sort | None, width: int, height: int | None, trouble: str = ""
) -> RenderableType:
    """Draw what `celery_partitions.admin.overview_json.to_json` returned. `height` None: every row. `trouble`: why the data is old."""
    rows: list[Row] = found["partitions"]
    head = [*_attention(found, width, height), *_totals(found, width, trouble), Text()]
    room = None if height is None else max(1, height - len(head) - 1)  # one line for the table's header
    if sort is None:  # rows that all fit keep their places; otherwise the largest backlogs are shown
        sort = "name" if room is None or len(rows) <= room else "backlog"
    rows = in_order(rows, sort)
    left_out = 0
    if room is not None and len(rows) > room:
        left_out = len(rows) - max(1, room - 1)
        rows = rows[: max(1, room - 1)]
    table = _table(rows, found["partitions"], width)
    rest = Text(f"and {left_out:,} more, by {sort}", style="dim", no_wrap=True, overflow="ellipsis")
    return Group(*head, table, *([rest] if left_out else []))


def _attention(found: Mapping[str, Any], width: int, height: int | None) -> list[Text]:
    """What needs an operator: a line each, in at most a third of the screen."""
    every: Sequence[Mapping[str, Any]] = found.get("attention", ())
    room = len(every) if height is None else max(1, height // 3)
    lines = []
    for one in every[:room] if len(every) <= room else every[: room - 1]:
        since = "" if one["since"] is None else f", for {span(found['at'] - one['since'])}"
        line = Text(f"! {escape(one['what'])}{since}", style="bold red" if one["severity"] == "critical" else "bold yellow")
        line.append(f"  {escape(one['why'])}", style="not bold")
        lines.append(line)
    if len(every) > room:
        lines.append(Text(f"! and {len(every) - len(lines)} more: celery -A APP partitions attention", style="bold yellow"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def in_order(rows: Sequence[Row], sort: Sort) -> list[Row]:
    """The rows, largest first. Equal rows keep their order: partitions by number, the ingress last."""
    match sort:
        case "name":
            return list(rows)
        case "backlog":
            return sorted(rows, key=lambda row: -row["waiting"])
        case "rate":
            return sorted(rows, key=lambda row: -(row["done_per_second"] or 0))
        case "oldest":
            return sorted(rows, key=lambda row: -(row["oldest_age_seconds"] or 0))


def _totals(found: Mapping[str, Any], width: int, trouble: str) -> list[Text]:
    """The totals, in as many lines as they need. A line breaks only between two facts."""
    totals = found["totals"]
    unowned = totals["partitions"] - totals["held"]
    facts = [
        time.strftime("%H:%M:%S", time.localtime(found["at"])),
        counted(totals["partitions"] - 1, "partition") + " and the ingress",
        counted(totals["workers"], "worker"),
        f"waiting {number(totals['waiting'])}",
        f"in {number(totals['in_per_second'])}/s",
        f"done {number(totals['done_per_second'])}/s {sparkline(done_of(totals), 20)}".rstrip(),
    ]
    if totals["latency_p99_seconds"] is not None:
        facts.append(f"p50 {span(totals['latency_p50_seconds'])}, p99 {span(totals['latency_p99_seconds'])}")
    weight = f", {size(totals['state_bytes'])}" if totals["state_bytes"] else ""
    facts.append(f"keys {number(totals['keys'])}{weight}")
    alarms = [
        *(
            f"{name} {number(totals[key])}"
            for name, key in (("parked", "parked"), ("dead", "dead_letters"))
            if totals[key]
        ),
        *([f"paused {totals['paused']}"] if totals["paused"] else []),
        *([f"no owner {unowned}"] if unowned else []),
        *([escape(trouble)] if trouble else []),
    ]
    lines = [Text()]
    for fact, style in [*((fact, "") for fact in facts), *((alarm, "bold red") for alarm in alarms)]:
        if lines[-1] and len(lines[-1]) + GAP + len(fact) > width:
            lines.append(Text())
        lines[-1].append(" " * GAP if lines[-1] else "").append(fact, style=style)
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


def _table(rows: Sequence[Row], every: Sequence[Row], width: int) -> Table:
    """`every` includes the rows that are not shown, so that column widths stay the same when rows move in and out of view."""
    widths = columns_for(every, width)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    chosen = [column for column in COLUMNS if column.name in widths]
    for column in chosen:
        right = "right" if column.right else "left"
        wide = widths[column.name]
        table.add_column(column.name, justify=right, width=wide, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in rows:
        table.add_row(
            *(_cell(column, row, widths[column.name]) for column in chosen), style="yellow" if _state(row) else ""
        )
    return table


def _cell(column: Column, row: Row, width: int) -> Text:
    text = sparkline(done_of(row), width) if column.name == "5 min" else column.cell(row)
    return Text(text, style="red" if column.alarm and text != "0" else "")


def columns_for(rows: Sequence[Row], width: int) -> dict[str, int]:
    """The columns that fit, with their widths. Room left over goes to the sparkline, then to the last error."""
    by_name = {column.name: column for column in COLUMNS}
    widths: dict[str, int] = {}
    left = width
    for name in DEAREST:
        column = by_name[name]
        if name in OFTEN_EMPTY and not any(map(column.cell, rows)):
            continue
        wide = column.width or min(MAX_NAME, max([len(name), *(len(column.cell(row)) for row in rows)]))
        if widths and wide + GAP > left:
            continue
        widths[name] = wide
        left -= wide + GAP
    left += GAP  # no gap after the last column
    for name, limit in (("5 min", MAX_SPARK), ("last error", width)):
        if name in widths and left > 0:
            more = min(left, limit - widths[name])
            widths[name] += more
            left -= more
    return widths


def done_of(row: Row) -> list[float]:
    """Messages processed per second, over the minutes that are kept."""
    return [done for _, _, done, _ in row["history"]]
