"""What a key's windows make of a message and of the clock.

A window is a stateful stage. Its state, one for each key, has the accumulators of the windows that are open; what is
here changes it and gives the outputs, and knows no clock but the one it is told. Times come in and go out in seconds
since the epoch; inside all are whole nanoseconds, so that a bound is the same number wherever it is computed.
"""

from __future__ import annotations

import copy
import math
from typing import Any, ClassVar, Literal

from celery_partitions.pipeline.aggregation import looked_over, modules_of, name_of

LateDataPolicy = Literal["drop", "fire-per-message", "place-in-oldest-window"]

#: A count window that has got nothing for so long gives what it has.
QUIET_COUNT_NS = 5_000_000_000
#: Before any time that is told: no window is closed yet.
_NEVER = -(1 << 80)


def to_ns(seconds: float) -> int:
    """Nanoseconds since the epoch: of an int exactly; of a float to the microsecond, which is all it holds in our days.

    So 1700000000.1 is the start of a window of 100 ms, and not the end of the one before. Raises `ValueError` for a
    time that is no number.
    """
    if type(seconds) is int:
        return seconds * 1_000_000_000
    if not math.isfinite(seconds):
        raise ValueError(f"the time {seconds!r} is no number of seconds")
    whole = math.floor(seconds)
    return whole * 1_000_000_000 + round((seconds - whole) * 1_000_000) * 1_000


def to_seconds(ns: int) -> float:
    """The first microsecond that is not before: at that time `to_ns` gives no less."""
    return -(-ns // 1_000) / 1_000_000


class _Windows:
    """An aggregation that was looked over: what range and count windows have in common."""

    def __init__(self, aggregation: Any, combines: bool) -> None:
        self.aggregation = looked_over(aggregation, combines=combines)
        #: The stage's name, unless the pipeline gives it another.
        self.name = name_of(self.aggregation)
        #: What the pickle of a state may name, beside the module of the state class.
        self.modules = modules_of(self.aggregation)

    def _updated(self, accumulator: Any, message: Any) -> Any:
        returned = self.aggregation.update(message, accumulator)
        return accumulator if returned is None else returned

    def _output(self, key: str, accumulator: Any) -> list[Any]:
        output = self.aggregation.output(key, accumulator)
        return [] if output is None else [output]


class RangeState:
    """The open windows of one key. Changed by `RangeWindows` only, but for `timer_at`, which is the engine's."""

    def __init__(self) -> None:
        #: When the earliest timer that is set for this key falls due, in seconds by the server's clock; None: none is set.
        self.timer_at: float | None = None
        #: Start of a pane (of a window, where there are no panes) → its accumulator; only those with messages.
        self.accumulators: dict[int, Any] = {}
        #: The latest event time, and when by the clock the last message came that went into a window.
        self.newest = _NEVER
        self.arrived = _NEVER
        #: Every window with an end up to here is closed.
        self.closed = _NEVER
        #: End of the oldest open window that has messages.
        self.next_end: int | None = None


class RangeWindows(_Windows):
    """Windows of a range of time, `slide` apart, aligned to the epoch. A window has the times from its start up to,
    and without, its end.

    They close when the key's watermark is at their end: its latest event time less the delay. While a key is quiet
    its watermark goes on with the clock, from where the last message left it; so an arrival-time window closes when
    the clock is at its end plus the delay, and any window closes in the end. Oldest first, each once.
    """

    state_class: ClassVar[type[RangeState]] = RangeState

    def __init__(self, range_ns: int, slide_ns: int, delay_ns: int, late: LateDataPolicy, aggregation: Any) -> None:
        super().__init__(aggregation, combines=slide_ns < range_ns and range_ns % slide_ns == 0)
        self.range = range_ns
        self.slide = slide_ns
        self.delay = delay_ns
        self.late_data_policy = late
        #: With panes a message is put into one accumulator, and a window's is combined when it closes. A slide that
        #: does not divide the range has none: there each window has its accumulator.
        self._panes = range_ns % slide_ns == 0

    def new_state(self) -> RangeState:
        """The state of a key seen for the first time."""
        return RangeState()

    def take(self, state: RangeState, message: Any, key: str, event_time: float | None, now: float) -> list[Any]:
        """Put a message into its windows; the outputs of those that its time closes, oldest first.

        `event_time` None: the message's time is `now`, and it is never late. A message is late when all its windows are
        closed; what is then done is the policy's. Raises what the aggregation raises, and leaves the state half changed.
        """
        clock = to_ns(now)
        # A server's clock may go back, after a failover: what arrives later is not earlier.
        time = max(clock, state.newest, state.closed) if event_time is None else to_ns(event_time)
        state.newest = max(state.newest, time)
        watermark = state.newest - self.delay
        outputs = self._close(state, key, watermark)
        state.closed = max(state.closed, watermark)
        if self._place(state, message, time):
            state.arrived = clock
            return outputs
        match self.late_data_policy:
            case "fire-per-message":
                outputs += self._output(key, self._updated(self.aggregation.initial_accumulator(), message))
            case "place-in-oldest-window":
                self._put(state, message, self._oldest_open(state))
                state.arrived = clock
        return outputs

    def fire(self, state: RangeState, key: str, now: float) -> list[Any]:
        """The outputs of the windows that the clock has closed by now. Called too early it changes nothing."""
        return self._close(state, key, state.newest + to_ns(now) - state.arrived - self.delay)

    def due(self, state: RangeState) -> float | None:
        """When `fire` has something to close, if nothing else arrives; None when no window has messages."""
        if state.next_end is None:
            return None
        return to_seconds(state.arrived + state.next_end + self.delay - state.newest)

    def _close(self, state: RangeState, key: str, watermark: int) -> list[Any]:
        outputs: list[Any] = []
        while state.next_end is not None and state.next_end <= watermark:
            start = state.next_end - self.range
            outputs += self._output(key, self._content(state, start))
            state.accumulators.pop(start, None)
            # Not the watermark: a timer that comes late must not make messages late.
            state.closed = state.next_end
            state.next_end = self._next_end(state)
        return outputs

    def _content(self, state: RangeState, start: int) -> Any:
        """The accumulator of the window that starts there, and of nothing else."""
        panes = range(start, start + self.range, self.slide) if self._panes else (start,)
        found = [pane for pane in panes if pane in state.accumulators]
        # Later windows need all but the first pane again: whatever combine, output or a later stage does to these.
        content, *others = (
            state.accumulators[pane] if pane == start else copy.deepcopy(state.accumulators[pane]) for pane in found
        )
        for other in others:
            content = self.aggregation.combine(content, other)
        return content

    def _place(self, state: RangeState, message: Any, time: int) -> bool:
        """Put a message into its windows that are open; whether there was one."""
        last = time // self.slide * self.slide
        if last + self.range <= state.closed:
            return False
        if self._panes:
            self._put(state, message, last)
            return True
        first = max(self._oldest_open(state), (time - self.range) // self.slide * self.slide + self.slide)
        for start in range(last, first - 1, -self.slide):
            # Each window's own, as a message that is kept may be changed through one of them.
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
        """End of the oldest open window that has this accumulator's messages."""
        if not self._panes:
            return start + self.range
        return max(start - self.range + self.slide, self._oldest_open(state)) + self.range

    def _oldest_open(self, state: RangeState) -> int:
        """Start of the oldest window that is not closed, with messages or without."""
        return (state.closed - self.range) // self.slide * self.slide + self.slide


class CountState:
    """The open window of one key. Changed by `CountWindows` only, but for `timer_at`, which is the engine's."""

    def __init__(self) -> None:
        #: When the earliest timer that is set for this key falls due, in seconds by the server's clock; None: none is set.
        self.timer_at: float | None = None
        self.accumulator: Any = None
        self.count = 0
        #: When by the clock the last message came.
        self.arrived = _NEVER


class CountWindows(_Windows):
    """Windows of so many messages of a key, in the order in which they come, whatever their event time.

    A window gives its output with its last message, or, not full, after five seconds in which none came.
    """

    state_class: ClassVar[type[CountState]] = CountState

    def __init__(self, count: int, aggregation: Any) -> None:
        super().__init__(aggregation, combines=False)
        self.count = count

    def new_state(self) -> CountState:
        """The state of a key seen for the first time."""
        return CountState()

    def take(self, state: CountState, message: Any, key: str, event_time: float | None, now: float) -> list[Any]:
        """Put a message into the window; its output when it is full. Raises what the aggregation raises."""
        before = state.accumulator if state.count else self.aggregation.initial_accumulator()
        state.accumulator = self._updated(before, message)
        state.count += 1
        state.arrived = to_ns(now)
        return self._flush(state, key) if state.count >= self.count else []

    def fire(self, state: CountState, key: str, now: float) -> list[Any]:
        """The output of what a quiet key has. Called too early it changes nothing."""
        return self._flush(state, key) if state.count and to_ns(now) >= state.arrived + QUIET_COUNT_NS else []

    def due(self, state: CountState) -> float | None:
        """When `fire` has something to give, if nothing else arrives; None when the window is empty."""
        return to_seconds(state.arrived + QUIET_COUNT_NS) if state.count else None

    def _flush(self, state: CountState, key: str) -> list[Any]:
        accumulator, state.accumulator, state.count = state.accumulator, None, 0
        return self._output(key, accumulator)
