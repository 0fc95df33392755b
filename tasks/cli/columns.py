"""The columns of `partitions top`, of partitions and of computations, and in what order rows come. No I/O."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

from celery_partitions.admin.numbers import number, size, span
from celery_partitions.model.escaping import escape

Row = Mapping[str, Any]
#: Of computations: `backlog` is parked keys, `oldest` the latency.
Sort = Literal["backlog", "rate", "oldest", "name"]
SORTS: tuple[Sort, ...] = ("backlog", "rate", "oldest", "name")
By = Literal["partition", "computation"]

#: A sparkline takes the rest of the line, within these bounds: a shorter one is unreadable, a longer one has no more points.
MIN_SPARK, MAX_SPARK = 8, 30


@dataclass(frozen=True)
class Column:
    """One column. `width` is in characters; 0 means as wide as its content, up to a limit."""

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


_PARTITION_COLUMNS = (
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
_DEAREST = (
    "queue", "waiting", "done/s", "", "in/s", "oldest", "5 min", "dead", "parked", "p99",
    "owner", "keys", "last error", "p50", "state", "delayed", "held",
)  # fmt: skip


_OFTEN_EMPTY = {"", "5 min", "p50", "p99", "last error"}



def _calls(row: Row) -> str:
    return f"{number(row['in_flight'])} of {number(row['concurrency'])}" if row["concurrency"] else ""


_COMPUTATION_COLUMNS = (
    Column("computation", 0, lambda row: escape(row["computation"]), right=False),
    Column("done/s", 7, lambda row: number(row["done_per_second"])),
    Column("5 min", MIN_SPARK, lambda row: sparkline(done_of(row), MAX_SPARK), right=False),
    Column("p99", 6, lambda row: _latency(row["latency_p99_seconds"])),
    Column("call p50", 8, lambda row: _latency(row["call_p50_seconds"])),
    Column("call p99", 8, lambda row: _latency(row["call_p99_seconds"])),
    Column("failed/s", 8, lambda row: number(row["failed_per_second"])),
    Column("retried", 7, lambda row: number(row["retried"])),
    Column("parked", 6, lambda row: number(row["parked"]), alarm=True),
    Column("dead", 6, lambda row: number(row["dead_lettered"])),
    Column("calls", 14, _calls),
    Column("limit", 8, lambda row: escape(row["rate_limit"] or "")),
    Column("done", 8, lambda row: number(row["processed"])),
    Column("last error", 20, _error, right=False),
)


@dataclass(frozen=True)
class Layout:
    """A table of `top`."""

    #: The field of what is drawn that has the rows, and the field of a row that has its name.
    rows: str
    name: str
    #: From left to right.
    columns: tuple[Column, ...]
    #: The order in which columns get room on a narrow terminal.
    dearest: tuple[str, ...]
    #: Columns that are left out if no row has a value.
    often_empty: frozenset[str]
    #: The field to sort by.
    sorts: Mapping[Sort, str]
    is_troubled: Callable[[Row], bool]


LAYOUTS: Mapping[By, Layout] = {
    "partition": Layout(
        "partitions", "queue", _PARTITION_COLUMNS, _DEAREST, frozenset(_OFTEN_EMPTY),
        {"backlog": "waiting", "rate": "done_per_second", "oldest": "oldest_age_seconds"},
        lambda row: bool(_state(row)),
    ),
    "computation": Layout(
        "computations", "computation", _COMPUTATION_COLUMNS,
        ("computation", "done/s", "failed/s", "parked", "p99", "5 min", "calls", "dead", "retried", "last error", "call p99", "call p50", "limit", "done"),
        frozenset({"5 min", "p99", "call p50", "call p99", "calls", "limit", "last error"}),
        {"backlog": "parked", "rate": "done_per_second", "oldest": "latency_p99_seconds"},
        lambda row: bool(row["parked"]),
    ),
}  # fmt: skip


def in_order(rows: Sequence[Row], sort: Sort, layout: Layout = LAYOUTS["partition"]) -> list[Row]:
    """The rows, largest first. Equal rows keep their order: partitions by number, the ingress last; computations by name."""
    if sort == "name":
        return list(rows)
    return sorted(rows, key=lambda row: -(row[layout.sorts[sort]] or 0))


def done_of(row: Row) -> list[float]:
    """Messages processed per second, over the minutes that are kept."""
    return [point[2 if len(point) == 4 else 1] for point in row["history"]]


BARS = "▁▂▃▄▅▆▇█"


def sparkline(series: Sequence[float], width: int) -> str:
    """The series in at most `width` characters, scaled from zero to its highest value. A short series has one character a point."""
    count = len(series)
    if count > width:
        cuts = [number * count // width for number in range(width + 1)]
        series = [sum(series[a:b]) / (b - a) for a, b in pairwise(cuts)]
    highest = max(series, default=0)
    if highest <= 0:
        return BARS[0] * len(series)
    return "".join(BARS[min(7, int(value / highest * 7.999))] for value in series)
