"""Windows by their definition: every message is kept, and each window is computed from all of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from celery_partitions.pipeline.window_stage import RangeWindows
from celery_partitions.pipeline.windows import Aggregation


class Gather(Aggregation):
    """Outputs the key and the window's messages, ordered by number. It changes its accumulators in place, as a user might."""

    def initial_accumulator(self) -> list[int]:
        return []

    def update(self, message: int, accumulator: list[int]) -> None:
        accumulator.append(message)

    def combine(self, first: list[int], second: list[int]) -> list[int]:
        first.extend(second)
        second.clear()
        return first

    def output(self, key: str, accumulator: list[int]) -> tuple[str, list[int]]:
        accumulator.sort()
        return key, accumulator


class GatherImmutably(Aggregation):
    """The same with immutable accumulators: `update` returns a new one."""

    def initial_accumulator(self) -> tuple[int, ...]:
        return ()

    def update(self, message: int, accumulator: tuple[int, ...]) -> tuple[int, ...]:
        return (*accumulator, message)

    def combine(self, first: tuple[int, ...], second: tuple[int, ...]) -> tuple[int, ...]:
        return first + second

    def output(self, key: str, accumulator: tuple[int, ...]) -> tuple[str, list[int]]:
        return key, sorted(accumulator)


class Naive:
    """The range windows of one key, by definition. All times are whole seconds."""

    def __init__(self, windows: RangeWindows) -> None:
        self.range = windows.range // 10**9
        self.slide = windows.slide // 10**9
        self.delay = windows.delay // 10**9
        self.policy = windows.late_data_policy
        #: The start of each window that ever had a message → its messages.
        self.windows: dict[int, list[int]] = {}
        self.given: set[int] = set()
        self.newest: int | None = None
        self.arrived = 0
        self.closed: int | None = None

    def take(self, number: int, event_time: int | None, now: int) -> list[list[int]]:
        known = [time for time in (self.newest, self.closed) if time is not None]
        time = max([now, *known]) if event_time is None else event_time
        self.newest = time if self.newest is None else max(self.newest, time)
        out = self._close(self.newest - self.delay)
        self.closed = max(self._ends_closed(), self.newest - self.delay)
        mine = [start for start in self._starts_with(time) if start + self.range > self.closed]
        if not mine and self.policy == "drop":
            return out
        if not mine and self.policy == "fire-per-message":
            return [*out, [number]]
        for start in mine or [self._oldest_open()]:
            self.windows.setdefault(start, []).append(number)
        self.arrived = now
        return out

    def at(self, now: int) -> list[list[int]]:
        """The windows that the clock closes at `now`."""
        return [] if self.newest is None else self._close(self.newest + max(0, now - self.arrived) - self.delay)

    def open(self) -> bool:
        return bool(self.windows.keys() - self.given)

    def _close(self, watermark: int) -> list[list[int]]:
        ready = sorted(s for s in self.windows if s not in self.given and s + self.range <= watermark)
        self.given.update(ready)
        return [sorted(self.windows[start]) for start in ready]

    def _ends_closed(self) -> int:
        ends = [start + self.range for start in self.given]
        return max([*ends, -(10**9) if self.closed is None else self.closed])

    def _starts_with(self, time: int) -> Iterator[int]:
        return (s for s in range(time - self.range + 1, time + 1) if s % self.slide == 0)

    def _oldest_open(self) -> int:
        assert self.closed is not None
        return next(s for s in range(self.closed - self.range + 1, self.closed + 1) if s % self.slide == 0)


class Engine:
    """The part of the engine that runs a stage's timers. The clock moves from one timer to the next."""

    def __init__(self, windows: Any, key: str = "key") -> None:
        self.windows = windows
        self.key = key
        self.state = windows.new_state()
        self.now = 0.0

    def take(self, message: Any, event_time: float | None = None) -> list[Any]:
        out: list[Any] = self.windows.take(self.state, message, self.key, event_time, self.now)
        return out + self._set_timer()

    def go_to(self, now: float) -> Iterator[tuple[float, list[Any]]]:
        """Fire the timers due until then. Yields the time and the outputs of each."""
        while self.state.timer_at is not None and self.state.timer_at <= now:
            self.now, self.state.timer_at = max(self.now, self.state.timer_at), None
            out = self.windows.fire(self.state, self.key, self.now)
            yield self.now, out + self._set_timer()
        self.now = now

    def _set_timer(self) -> list[Any]:
        due = self.windows.due(self.state)
        if due is not None and (self.state.timer_at is None or due < self.state.timer_at):
            self.state.timer_at = due
        return []
