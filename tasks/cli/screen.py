"""Draws the screen of `partitions top`: totals, then as many columns and rows as fit the terminal, or all about one row. No I/O."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from celery_partitions.admin.numbers import counted, number, size, span
from celery_partitions.cli.columns import MAX_SPARK, Column, Layout, Row, done_of, in_order, sparkline
from celery_partitions.cli.view import HELP, HELP_OPEN, View
from celery_partitions.model.escaping import escape

#: Spaces between two columns.
GAP = 2
#: Longer queue and node names are cut.
MAX_NAME = 28


def draw(
    found: Mapping[str, Any], view: View, *, width: int, height: int | None, trouble: str = "", has_keys: bool = False
) -> RenderableType:
    """Draw what `celery_partitions.admin.overview_json.to_json` returned, with `computations` for a view of those. `height` None: every row.
    `trouble`: why the data is old. `has_keys`: the operator can press keys, and is told which."""
    layout = view.layout
    head = [*_attention(found, width, height), *_totals(found, width, trouble), Text()]
    help_line = [Text(HELP_OPEN if view.is_open else HELP, style="dim", no_wrap=True, overflow="ellipsis")] if has_keys else []
    room = None if height is None else max(1, height - len(head) - 1 - len(help_line))  # one line for the table's header
    rows = rows_of(found, view, room)
    chosen = next((place for place, row in enumerate(rows) if row[layout.name] == view.chosen), None)
    if view.is_open and chosen is not None:
        return Group(*head, *_facts(rows[chosen], layout, found.get("opened", ()), width)[: None if room is None else room + 1], *help_line)
    left_out = 0
    if room is not None and len(rows) > room:
        shown = max(1, room - 1)
        left_out = len(rows) - shown
        first = 0 if chosen is None else max(0, min(chosen - shown // 2, left_out))
        rows = rows[first : first + shown]
    table = _table(rows, found[layout.rows], width, layout, view.chosen)
    rest = Text(f"and {left_out:,} more, by {view.sort or 'backlog'}", style="dim", no_wrap=True, overflow="ellipsis")
    return Group(*head, table, *([rest] if left_out else []), *help_line)


def rows_of(found: Mapping[str, Any], view: View, room: int | None = None) -> list[Row]:
    """The rows of a view, in order. `room`: how many fit the screen."""
    rows: Sequence[Row] = found[view.layout.rows]
    if view.sort is None:  # rows that all fit keep their places; otherwise the largest backlogs are shown
        return in_order(rows, "name" if room is None or len(rows) <= room else "backlog", view.layout)
    return in_order(rows, view.sort, view.layout)


def _facts(row: Row, layout: Layout, parked: Sequence[Mapping[str, Any]], width: int) -> list[Text]:
    """All about one row, a line each. `parked`: its parked keys."""
    wide = max(len(column.name) for column in layout.columns)
    lines = [Text(f"{column.name or 'state':<{wide}}  {column.cell(row)}") for column in layout.columns if column.cell(row)]
    if parked:
        lines += [Text(), Text("parked keys: key, why, waiting, error", style="bold")]
    for one in parked:
        lines.append(Text(f"{escape(one['key'])}  {one['reason']}  {number(one['waiting'])}  {escape(one['error'])}"))
    for line in lines:
        line.truncate(width, overflow="ellipsis")
    return lines


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


def _table(rows: Sequence[Row], every: Sequence[Row], width: int, layout: Layout, chosen: str | None) -> Table:
    """`every` includes the rows that are not shown, so that column widths stay the same when rows move in and out of view."""
    widths = columns_for(every, width, layout)
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="bold")
    shown = [column for column in layout.columns if column.name in widths]
    for column in shown:
        right = "right" if column.right else "left"
        wide = widths[column.name]
        table.add_column(column.name, justify=right, width=wide, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    for row in rows:
        style = "reverse" if row[layout.name] == chosen else "yellow" if layout.is_troubled(row) else ""
        table.add_row(*(_cell(column, row, widths[column.name]) for column in shown), style=style)
    return table


def _cell(column: Column, row: Row, width: int) -> Text:
    text = sparkline(done_of(row), width) if column.name == "5 min" else column.cell(row)
    return Text(text, style="red" if column.alarm and text != "0" else "")


def columns_for(rows: Sequence[Row], width: int, layout: Layout) -> dict[str, int]:
    """The columns that fit, with their widths. Room left over goes to the sparkline, then to the last error."""
    by_name = {column.name: column for column in layout.columns}
    widths: dict[str, int] = {}
    left = width
    for name in layout.dearest:
        column = by_name[name]
        if name in layout.often_empty and not any(map(column.cell, rows)):
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
