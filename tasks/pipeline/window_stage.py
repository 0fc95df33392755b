"""The window stages: puts messages into windows, and closes windows by event time and by the clock.

A window is a stateful stage. Its state, one per key, holds the accumulators of the open windows. The classes here change the state and
return the outputs; the current time is passed in. Times are passed and returned in seconds since the epoch. Internally they are integer
nanoseconds, so that a bound is the same number wherever it is computed.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from typing import Any, ClassVar, Literal

from celery_partitions.pipeline.aggregation import looked_over, modules_of, name_of

LateDataPolicy = Literal["drop", "fire-per-message", "place-in-oldest-window"]

#: A count window that received nothing for this long returns what it has.
QUIET_COUNT_NS = 5_000_000_000
#: Before any possible time: no window is closed yet.
_NEVER = -(1 << 80)


def to_ns(seconds: float) -> int:
    """Convert seconds to nanoseconds. An int is converted exactly; a float to the microsecond, the precision that a float has today.

    So 1700000000.1 is in the 100 ms window that starts then, not in the one before. Raises `ValueError` for NaN and infinity.
    """
    if type(seconds) is int:
        return seconds * 1_000_000_000
    if not math.isfinite(seconds):
        raise ValueError(f"the time {seconds!r} is not a finite number of seconds")
    whole = math.floor(seconds)
    return whole * 1_000_000_000 + round((seconds - whole) * 1_000_000) * 1_000


def to_seconds(ns: int) -> float:
    """Convert nanoseconds to seconds, rounded up to a microsecond, so that `to_ns` of the result is not less."""
    return -(-ns // 1_000) / 1_000_000


class _Windows:
    """What range and count windows have in common: a checked aggregation."""

    def __init__(self, aggregation: Any, combines: bool) -> None:
        self.aggregation = looked_over(aggregation, combines=combines)
        #: The stage's default name.
        self.name = name_of(self.aggregation)
        #: The modules that the pickle of a state may name, besides the state class's module.
        self.modules = modules_of(self.aggregation)

    def _updated(self, accumulator: Any, message: Any) -> Any:
        returned = self.aggregation.update(message, accumulator)
        return accumulator if returned is None else returned

    def _output(self, key: str, accumulator: Any) -> list[Any]:
        output = self.aggregation.output(key, accumulator)
        return [] if output is None else [output]


class RangeState:
    """The open windows of one key. Only `RangeWindows` changes it, except for `timer_at`, which belongs to the engine."""

    def __init__(self) -> None:
        #: When this key's earliest timer is due (seconds, server clock). None: no timer is set.
        self.timer_at: float | None = None
        #: Start of a pane (or of a window, if there are no panes) → its accumulator. Only those with messages.
        self.accumulators: dict[int, Any] = {}
        #: The latest event time, and the time on the clock when the last message was put into a window.
        self.newest = _NEVER
        self.arrived = _NEVER
        #: Every window that ends at or before this time is closed.
        self.closed = _NEVER
        #: End of the oldest open window that has messages.
        self.next_end: int | None = None


class RangeWindows(_Windows):
    """Windows of a range of time, `slide` apart, aligned to the epoch. A window includes its start and excludes its end.

    A window closes when the key's watermark (its latest event time minus the delay) reaches the window's end. While a key receives no
    messages, its watermark advances with the clock. So an arrival-time window closes when the clock reaches its end plus the delay, and
    every window closes eventually. Windows close once each, the oldest first.
    """

    state_class: ClassVar[type[RangeState]] = RangeState

    def __init__(self, range_ns: int, slide_ns: int, delay_ns: int, late: LateDataPolicy, aggregation: Any) -> None:
        super().__init__(aggregation, combines=slide_ns < range_ns and range_ns % slide_ns == 0)
        self.range = range_ns
        self.slide = slide_ns
        self.delay = delay_ns
        self.late_data_policy = late
        #: With panes, a message goes into one accumulator, and a closing window combines those of its panes. If the slide does not divide
        #: the range, there are no panes, and each window has its own accumulator.
        self._panes = range_ns % slide_ns == 0

    def new_state(self) -> RangeState:
        """The initial state of a key."""
        return RangeState()

    def take(
        self, state: RangeState, message: Any, key: str, event_time: float | None, now: float, on_drop: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """Put a message into its windows. Returns the outputs of the windows that its time closes, oldest first.

        `event_time` None: the message's time is `now`, and it is never late. A message is late if all its windows are closed; then the
        late-data policy applies; `on_drop` is called if that drops it. Raises what the aggregation raises, and may leave the state partly changed.
        """
        clock = to_ns(now)
        # A server's clock may go back after a failover. A later message must not get an earlier time.
        time = max(clock, state.newest, state.closed) if event_time is None else to_ns(event_time)
        state.newest = max(state.newest, time)
        watermark = state.newest - self.delay
        outputs = self._close(state, key, watermark)
        state.closed = max(state.closed, watermark)
        if self._place(state, message, time):
            state.arrived = clock
            return outputs
        match self.late_data_policy:
            case "drop":
                on_drop()
            case "fire-per-message":
                outputs += self._output(key, self._updated(self.aggregation.initial_accumulator(), message))
            case "place-in-oldest-window":
                self._put(state, message, self._oldest_open(state))
                state.arrived = clock
        return outputs

    def fire(self, state: RangeState, key: str, now: float) -> list[Any]:
        """Close the windows that are due by the clock. Returns their outputs. Does nothing if it is called too early."""
        return self._close(state, key, state.newest + to_ns(now) - state.arrived - self.delay)

    def due(self, state: RangeState) -> float | None:
        """When `fire` will close a window if no message arrives before (seconds). None if no window has messages."""
        if state.next_end is None:
            return None
        return to_seconds(state.arrived + state.next_end + self.delay - state.newest)

    def _close(self, state: RangeState, key: str, watermark: int) -> list[Any]:
        outputs: list[Any] = []
        while state.next_end is not None and state.next_end <= watermark:
            start = state.next_end - self.range
            outputs += self._output(key, self._content(state, start))
            state.accumulators.pop(start, None)
            # Not the watermark, because a late timer must not make messages late.
            state.closed = state.next_end
            state.next_end = self._next_end(state)
        return outputs

    def _content(self, state: RangeState, start: int) -> Any:
        """The accumulator of the window that starts there, independent of other windows'."""
        panes = range(start, start + self.range, self.slide) if self._panes else (start,)
        found = [pane for pane in panes if pane in state.accumulators]
        # Later windows need all panes but the first again, and combine, output or a later stage may change what they get. So copy them.
        content, *others = (
            state.accumulators[pane] if pane == start else copy.deepcopy(state.accumulators[pane]) for pane in found
        )
        for other in others:
            content = self.aggregation.combine(content, other)
        return content

    def _place(self, state: RangeState, message: Any, time: int) -> bool:
        """Put a message into its open windows. Returns False if all are closed."""
        last = time // self.slide * self.slide
        if last + self.range <= state.closed:
            return False
        if self._panes:
            self._put(state, message, last)
            return True
        first = max(self._oldest_open(state), (time - self.range) // self.slide * self.slide + self.slide)
        for start in range(last, first - 1, -self.slide):
            # Each window gets its own copy, because an aggregation may keep the message and change it.
            self._put(state, message if start == last else copy.deepcopy(message), start)
        return True

    def _put(self, state: RangeState, message: Any, start: int) -> None:
        accumulators = state.accumulators
        before = accumulators[start] if start in accumulators else self.aggregation.initial_accumulator()
        accumulators[start] = self._updated(before, message)
        end = self._first_end(state, start)
        state.next_end = end if state.next_end is None else min(state.next_end, end)

    def _next_end(self, state: RangeState) -> int | None:
        return self._first_end(state, min(state.accumulators)) if state.accumulators else None

    def _first_end(self, state: RangeState, start: int) -> int:
        """The end of the oldest open window that contains this accumulator's messages."""
        if not self._panes:
            return start + self.range
        return max(start - self.range + self.slide, self._oldest_open(state)) + self.range

    def _oldest_open(self, state: RangeState) -> int:
        """The start of the oldest open window, with or without messages."""
        return (state.closed - self.range) // self.slide * self.slide + self.slide


class CountState:
    """The open window of one key. Only `CountWindows` changes it, except for `timer_at`, which belongs to the engine."""

    def __init__(self) -> None:
        #: When this key's earliest timer is due (seconds, server clock). None: no timer is set.
        self.timer_at: float | None = None
        self.accumulator: Any = None
        self.count = 0
        #: The time on the clock when the last message came.
        self.arrived = _NEVER


class CountWindows(_Windows):
    """Windows of a fixed number of messages per key, in the order of arrival, regardless of event time.

    A window returns its output with its last message. A window that is not full returns it after five seconds without a message.
    """

    state_class: ClassVar[type[CountState]] = CountState

    def __init__(self, count: int, aggregation: Any) -> None:
        super().__init__(aggregation, combines=False)
        self.count = count

    def new_state(self) -> CountState:
        """The initial state of a key."""
        return CountState()

    def take(
        self, state: CountState, message: Any, key: str, event_time: float | None, now: float, on_drop: Callable[[], None] = lambda: None
    ) -> list[Any]:
        """Put a message into the window. Returns its output if it is full. Raises what the aggregation raises."""
        before = state.accumulator if state.count else self.aggregation.initial_accumulator()
        state.accumulator = self._updated(before, message)
        state.count += 1
        state.arrived = to_ns(now)
        return self._flush(state, key) if state.count >= self.count else []

    def fire(self, state: CountState, key: str, now: float) -> list[Any]:
        """Return the output of a window that is not full, if no message came for five seconds. Does nothing if it is called too early."""
        return self._flush(state, key) if state.count and to_ns(now) >= state.arrived + QUIET_COUNT_NS else []

    def due(self, state: CountState) -> float | None:
        """When `fire` will return an output if no message arrives before (seconds). None if the window is empty."""
        return to_seconds(state.arrived + QUIET_COUNT_NS) if state.count else None

    def _flush(self, state: CountState, key: str) -> list[Any]:
        accumulator, state.accumulator, state.count = state.accumulator, None, 0
        return self._output(key, accumulator)
