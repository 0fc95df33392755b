"""How you declare windows: lengths of time, and builders that end in `over(Aggregation)`."""

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
    """A length of time in nanoseconds, rounded."""
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
    """Range windows without an aggregation yet. Call each method at most once, and `over` last."""

    def __init__(self, range_ns: int) -> None:
        self._range = _whole("range_windows", range_ns, 1)
        self._slide: int | None = None
        self._delay: int | None = None
        self._late: LateDataPolicy | None = None

    def with_slide(self, slide_ns: int) -> RangeWindowsBuilder:
        """Start a new window every `slide_ns` nanoseconds, at most the range. Without it, windows do not overlap."""
        _once("with_slide", self._slide)
        self._slide = _whole("with_slide", slide_ns, 1)
        if self._slide > self._range:
            raise DeclarationError(
                f"with_slide({slide_ns}): the slide is longer than the range, {self._range}, so some times would be in no window"
            )
        return self

    def with_delay(self, delay_ns: int) -> RangeWindowsBuilder:
        """Close a window `delay_ns` nanoseconds after its end, so that late messages still count."""
        _once("with_delay", self._delay)
        self._delay = _whole("with_delay", delay_ns, 0)
        return self

    def with_late_data_policy(self, policy: LateDataPolicy) -> RangeWindowsBuilder:
        """What happens to a message whose windows are closed: "drop" (the default), "fire-per-message" (it gets a window of its
        own, which closes immediately), or "place-in-oldest-window" (it goes to the oldest open window)."""
        _once("with_late_data_policy", self._late)
        if policy not in get_args(LateDataPolicy):
            raise DeclarationError(
                f"with_late_data_policy({policy!r}): expected one of {', '.join(map(repr, get_args(LateDataPolicy)))}"
            )
        self._late = policy
        return self

    def over(self, aggregation: Any) -> RangeWindows:
        """The complete windows, for `.to(…)`. `aggregation`: an `Aggregation` class or object."""
        slide = self._range if self._slide is None else self._slide
        return RangeWindows(self._range, slide, self._delay or 0, self._late or "drop", aggregation)


class CountWindowsBuilder:
    """Count windows without an aggregation yet."""

    def __init__(self, count: int) -> None:
        self._count = _whole("count_windows", count, 1)

    def over(self, aggregation: Any) -> CountWindows:
        """The complete windows, for `.to(…)`. `aggregation`: an `Aggregation` class or object."""
        return CountWindows(self._count, aggregation)


def range_windows(range_ns: int) -> RangeWindowsBuilder:
    """Windows of `range_ns` nanoseconds: `range_windows(seconds(9)).with_slide(seconds(3)).over(Total)`."""
    return RangeWindowsBuilder(range_ns)


def count_windows(count: int) -> CountWindowsBuilder:
    """Windows of `count` messages: `count_windows(100).over(Total)`."""
    return CountWindowsBuilder(count)


def _whole(what: str, number: Any, least: int) -> int:
    # `range_windows(1e9)` is accepted.
    if isinstance(number, bool) or not isinstance(number, int | float) or number != number // 1 or number < least:
        raise DeclarationError(f"{what}({number!r}): expected an integer of at least {least}")
    return int(number)


def _once(what: str, before: object) -> None:
    if before is not None:
        raise DeclarationError(f"{what}() was already called, with {before!r}")
