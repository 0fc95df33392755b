"""Formats numbers for people, in the commands and on the pages. `dashboard/static/common.js` does the same in the browser."""

from __future__ import annotations

from datetime import UTC, datetime

#: Shown for a number that is not known.
UNKNOWN = "–"

_LONG = ((86_400, "d"), (3_600, "h"), (60, "min"))


def span(seconds: float | None) -> str:
    """A duration in one unit: `40 µs`, `12 ms`, `3.2 s`, `90 s`, `5 min`, `2 h`, `2 d`. At most 7 characters."""
    if seconds is None:
        return UNKNOWN
    if seconds <= 0:
        return "0 s"
    for length, unit in _LONG:
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    if seconds >= 0.9995:
        return f"{_short(seconds)} s"
    if seconds >= 0.0009995:
        return f"{_short(1000 * seconds)} ms"
    return f"{max(1, round(1_000_000 * seconds))} µs"


def _short(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0") if value < 9.95 else f"{value:.0f}"


def ago(then: float | None, now: float) -> str:
    """How long ago `then` was."""
    return f"{span(now - then)} ago" if then else UNKNOWN


def utc(at: float | None) -> str:
    """A time in UTC, to the second. Empty: there is none."""
    return "" if at is None else f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M:%S}"


def size(count: float | None) -> str:
    """A number of bytes in one unit; 1 kB is 1000 bytes. At most 7 characters below 1000 TB."""
    return UNKNOWN if count is None else _scaled(count, ("B", "kB", "MB", "GB", "TB"), " ")


def count(value: float | None) -> str:
    """All digits, with a comma after each three."""
    return UNKNOWN if value is None else f"{value:,.0f}"


def number(value: float | None) -> str:
    """At most 7 characters: `12`, `12,345`, `1.23M`; a fraction below ten has one decimal."""
    if value is None:
        return UNKNOWN
    if value < 9.95 and value != int(value):
        return f"{value:.1f}"
    return count(value) if value < 99_999.5 else _scaled(value, ("", "k", "M", "G", "T"), "")


def counted(number: int, what: str) -> str:
    """`1 message`, `1,200 messages`."""
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _scaled(value: float, units: tuple[str, ...], space: str) -> str:
    step = 0
    while value >= 999.5 and step < len(units) - 1:
        value, step = value / 1000, step + 1
    return f"{value:.3g}{space}{units[step]}" if value < 999.5 else f"{value:.0f}{space}{units[step]}"
