"""How `partitions top` draws a group: totals, and as many columns and rows as the terminal has room for. No I/O."""

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

#: Between two columns.
GAP = 2
#: Longer names are cut: a queue of a sink's group, a node on a host with a long name.
MAX_NAME = 28
#: A sparkline takes what is left of the line, from this to that; shorter it says nothing, longer than its points neither.
MIN_SPARK, MAX_SPARK = 8, 30


@dataclass(frozen=True)
class Column:
    """One column; `width` in characters, 0: as wide as what stands in it, up to `MAX_NAME`."""

    name: str
    width: int
    cell: Callable[[Row], str]
    right: bool = True
    #: What is more than nothing here waits for an operator.
    alarm: bool = False


def _queue(row: Row) -> str:
    return escape(row["queue"])


def _state(row: Row) -> str:
    """What an operator is to see first; nothing where all is well."""
    if row["paused"]:
        return "paused"
    return "" if row["owner"] else "no owner"


def _error(row: Row) -> str:
    error = row["last_error"]
    return "" if error is None else escape(str(error["text"]))


def _latency(seconds: float | None) -> str:
    """Empty where nothing was measured: no message came."""
    return "" if seconds is None else span(seconds)


#: In the order in which they stand.
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
#: The columns that a narrow terminal keeps, the dearest first.
DEAREST = (
    "queue", "waiting", "done/s", "", "in/s", "oldest", "5 min", "dead", "parked", "p99",
    "owner", "keys", "last error", "p50", "state", "delayed", "held",
)  # fmt: skip


#: Columns that are left out where no row has anything in them.
OFTEN_EMPTY = {"", "5 min", "p50", "p99", "last error"}


def draw(
    found: Mapping[str, Any], *, sort: Sort | None, width: int, height: int | None, trouble: str = ""
) -> RenderableType:
    """What `celery_partitions.admin.overview_json.to_json` told, drawn. `height` None: every row. `trouble`: why it is not of now."""
    rows: list[Row] = found["partitions"]
    head = [*_totals(found, width, trouble), Text()]
    room = None if height is None else max(1, height - len(head) - 1)  # one for the table's own head
    if sort is None:  # of a few rows each keeps its place; of many those that need a look are on the screen
        sort = "name" if room is None or len(rows) <= room else "backlog"
    rows = in_order(rows, sort)
    left_out = 0
    if room is not None and len(rows) > room:
        left_out = len(rows) - max(1, room - 1)
        rows = rows[: max(1, room - 1)]
    table = _table(rows, found["partitions"], width)
    rest = Text(f"and {left_out:,} more, by {sort}", style="dim", no_wrap=True, overflow="ellipsis")
    return Group(*head, table, *([rest] if left_out else []))


def in_order(rows: Sequence[Row], sort: Sort) -> list[Row]:
    """The rows, those with the most first; rows that are alike stay as they come: the partitions by number, the ingress last."""
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
    """One line at 140 columns, a few at 80: a line breaks between two facts."""
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
    """`every`: also the rows that are not shown, so that no column grows and shrinks as they come and go."""
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
    """The columns that fit, and how wide each is. What is left over goes to the sparkline, then to the last error."""
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
    left += GAP  # none after the last
    for name, limit in (("5 min", MAX_SPARK), ("last error", width)):
        if name in widths and left > 0:
            more = min(left, limit - widths[name])
            widths[name] += more
            left -= more
    return widths


def done_of(row: Row) -> list[float]:
    """What was done each second, over the kept minutes."""
    return [done for _, _, done, _ in row["history"]]
