"""How windows are declared: partitions of time, and builders that end in `over(Aggregation)`."""

from __future__ import annotations

from typing import Any, get_args

from celery_partitions.model.errors import DeclarationError
from celery_partitions.pipeline.aggregation import Aggregation
from celery_partitions.pipeline.window_stage import CountWindows, LateDataPolicy, RangeWindows

__all__ = [
    "Aggregation",
    "CountWindows",
    "CountWindowsBuilder",
    "LateDataPolicy",
    "RangeWindows",
    "RangeWindowsBuilder",
    "Windows",
    "count_windows",
    "hours",
    "microseconds",
    "milliseconds",
    "minutes",
    "nanoseconds",
    "range_windows",
    "seconds",
]

#: What `.to(…)` takes for a window.
Windows = RangeWindows | CountWindows


def nanoseconds(number: float) -> int:
    """So many nanoseconds, whole."""
    return round(number)


def microseconds(number: float) -> int:
    """Their nanoseconds."""
    return round(number * 1_000)


def milliseconds(number: float) -> int:
    """Their nanoseconds."""
    return round(number * 1_000_000)


def seconds(number: float) -> int:
    """Their nanoseconds."""
    return round(number * 1_000_000_000)


def minutes(number: float) -> int:
    """Their nanoseconds."""
    return round(number * 60_000_000_000)


def hours(number: float) -> int:
    """Their nanoseconds."""
    return round(number * 3_600_000_000_000)


class RangeWindowsBuilder:
    """Range windows that still want their aggregation. Each setting is given once, and before `over`."""

    def __init__(self, range_ns: int) -> None:
        self._range = _whole("range_windows", range_ns, 1)
        self._slide: int | None = None
        self._delay: int | None = None
        self._late: LateDataPolicy | None = None

    def with_slide(self, slide_ns: int) -> RangeWindowsBuilder:
        """A new window starts every so many nanoseconds, at most the range; without it, one follows the other."""
        _once("with_slide", self._slide)
        self._slide = _whole("with_slide", slide_ns, 1)
        if self._slide > self._range:
            raise DeclarationError(
                f"with_slide({slide_ns}) is longer than the range, {self._range}: times between the windows would have none"
            )
        return self

    def with_delay(self, delay_ns: int) -> RangeWindowsBuilder:
        """A window closes so many nanoseconds after its end: how much later than others a message may come."""
        _once("with_delay", self._delay)
        self._delay = _whole("with_delay", delay_ns, 0)
        return self

    def with_late_data_policy(self, policy: LateDataPolicy) -> RangeWindowsBuilder:
        """What becomes of a message whose windows are closed: "drop" (without it), "fire-per-message" (a window of its
        own, closed at once), or "place-in-oldest-window" (the oldest that is not closed)."""
        _once("with_late_data_policy", self._late)
        if policy not in get_args(LateDataPolicy):
            raise DeclarationError(
                f"with_late_data_policy({policy!r}): it is one of {', '.join(map(repr, get_args(LateDataPolicy)))}"
            )
        self._late = policy
        return self

    def over(self, aggregation: Any) -> RangeWindows:
        """The windows, for `.to(…)`. `aggregation`: an `Aggregation`, the class or an object of it."""
        slide = self._range if self._slide is None else self._slide
        return RangeWindows(self._range, slide, self._delay or 0, self._late or "drop", aggregation)


class CountWindowsBuilder:
    """Count windows that still want their aggregation."""

    def __init__(self, count: int) -> None:
        self._count = _whole("count_windows", count, 1)

    def over(self, aggregation: Any) -> CountWindows:
        """The windows, for `.to(…)`. `aggregation`: an `Aggregation`, the class or an object of it."""
        return CountWindows(self._count, aggregation)


def range_windows(range_ns: int) -> RangeWindowsBuilder:
    """Windows of so many nanoseconds: `range_windows(seconds(9)).with_slide(seconds(3)).over(Total)`."""
    return RangeWindowsBuilder(range_ns)


def count_windows(count: int) -> CountWindowsBuilder:
    """Windows of so many messages: `count_windows(100).over(Total)`."""
    return CountWindowsBuilder(count)


def _whole(what: str, number: Any, least: int) -> int:
    # A float is taken when it is whole: `range_windows(1e9)`.
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1 or number < least:
        raise DeclarationError(f"{what}({number!r}): it wants a whole number, {least} or more")
    return int(number)


def _once(what: str, before: object) -> None:
    if before is not None:
        raise DeclarationError(f"{what}() was called already; it was given {before!r}")
