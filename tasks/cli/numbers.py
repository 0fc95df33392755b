"""Figures in little room: counts, bytes, times, and a series as a line of bars."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from celery_partitions.cli.output import span

BARS = "▁▂▃▄▅▆▇█"


def sparkline(series: Sequence[float], width: int) -> str:
    """The series in at most `width` characters, from nothing to its own highest. As long as it is short, one a point."""
    count = len(series)
    if count > width:
        cuts = [number * count // width for number in range(width + 1)]
        series = [sum(series[a:b]) / (b - a) for a, b in pairwise(cuts)]
    highest = max(series, default=0)
    if highest <= 0:
        return BARS[0] * len(series)
    return "".join(BARS[min(7, int(value / highest * 7.999))] for value in series)


def number(value: float | None) -> str:
    """In at most seven characters: `12`, `12,345`, `1.23M`; a rate below ten with its tenth."""
    if value is None:
        return "-"
    if value < 10 and value != int(value):
        return f"{value:.1f}"
    if value < 100_000:
        return f"{value:,.0f}"
    return _scaled(value, 1000, ("", "k", "M", "G", "T"))


def size(count: float | None) -> str:
    """Bytes in at most seven characters; a kB is a thousand, as on the pages."""
    return "-" if count is None else _scaled(count, 1000, ("B", "kB", "MB", "GB", "TB"), " ")


def _scaled(value: float, by: int, partitions: Sequence[str], space: str = "") -> str:
    step = 0
    while value >= by * 0.9995 and step < len(partitions) - 1:
        value, step = value / by, step + 1
    digits = 0 if step == 0 or value >= 99.95 else 1
    return f"{value:.{digits}f}{space}{partitions[step]}"


def moment(seconds: float | None, unknown: str = "-") -> str:
    """A latency in at most six characters."""
    if seconds is None:
        return unknown
    if seconds < 0.9995:
        return f"{seconds * 1000:.{1 if seconds < 0.00995 else 0}f} ms"
    return f"{seconds:.1f} s" if seconds < 9.95 else span(seconds)


def age(seconds: float | None) -> str:
    """A time's length in at most six characters."""
    return "-" if seconds is None else span(seconds)
