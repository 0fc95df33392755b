"""A partition's measurements as values: histograms with fixed bounds, and counters that commits do not keep.

All values are cumulative since the group began. They are stored as the JSON of `Measurements`; `lua/measure.lua` adds to them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

#: Upper bounds of the histograms' buckets. Each histogram has one more bucket, for values above the last bound.
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
COMMIT_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMPUTATION_SECONDS = (1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 2.5, 10.0)
BATCH_MESSAGES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


class Histogram(msgspec.Struct, gc=False):
    """Counts of values per bucket. The bounds are kept elsewhere, because they are always the same."""

    #: One count per bound: values up to it and above the previous one. Then one for values above the last.
    counts: list[int]
    #: Sum of all values.
    total: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, bounds: Sequence[float], value: float, times: int = 1) -> None:
        self.counts[bisect_left(bounds, value)] += times
        self.total += value * times

    def since(self, before: Histogram) -> Histogram:
        """The values since `before`. All values, if `before` is not an earlier moment of this histogram (it was deleted meanwhile)."""
        counts = [new - old for new, old in zip(self.counts, before.counts, strict=False)]
        if len(before.counts) != len(self.counts) or min(counts) < 0:
            return Histogram(list(self.counts), self.total)
        return Histogram(counts, max(0.0, self.total - before.total))

    def quantile(self, bounds: Sequence[float], share: float) -> float | None:
        """The quantile `share` (0 to 1), interpolated linearly inside a bucket. None if there are no values.

        For values above the last bound it returns that bound, because their size is unknown.
        """
        wanted, below = share * self.count, 0
        for number, count in enumerate(self.counts):
            if count and below + count >= wanted:
                if number == len(bounds):
                    return bounds[-1]
                start = bounds[number - 1] if number else 0.0
                return start + (bounds[number] - start) * max(0.0, wanted - below) / count
            below += count
        return None


class LastError(msgspec.Struct, frozen=True, gc=False):
    """The last failure or dead letter."""

    text: str
    #: Seconds since the epoch, by the server's clock.
    at: float
    #: These are None if the message does not contain them.
    key: str | None = None
    message_id: str | None = None


class Removal(msgspec.Struct, frozen=True, gc=False):
    """The last time that something other than a commit removed or moved messages of the queue."""

    #: Seconds since the epoch, by the server's clock.
    at: float


def _latency() -> Histogram:
    return Histogram([0] * (len(LATENCY_SECONDS) + 1))


def _batch() -> Histogram:
    return Histogram([0] * (len(BATCH_MESSAGES) + 1))


def _commit() -> Histogram:
    return Histogram([0] * (len(COMMIT_SECONDS) + 1))


def _computation() -> Histogram:
    return Histogram([0] * (len(COMPUTATION_SECONDS) + 1))


class Measurements(msgspec.Struct, omit_defaults=True, gc=False):
    """The measurements of one partition."""

    #: Seconds from a message's `sent_at` to the answer to its commit. Sampled: a few messages of each batch represent all of them. Only
    #: messages that have `sent_at` and were not delayed count.
    latency: Histogram = msgspec.field(default_factory=_latency)
    #: Messages per commit.
    batch: Histogram = msgspec.field(default_factory=_batch)
    #: Seconds from sending a commit to handling its answer. A worker with several partitions runs another partition's batch meanwhile.
    commit: Histogram = msgspec.field(default_factory=_commit)
    #: Seconds of computation per message: a batch's time divided by its messages, counted once for each message.
    computation: Histogram = msgspec.field(default_factory=_computation)
    #: How often a worker took over the partition from another worker, or from none.
    takeovers: int = 0
    #: Commits refused because another worker had taken over.
    fenced: int = 0
    #: States that a batch needed: found in memory (hits), or read from Redis (misses).
    cache_hits: int = 0
    cache_misses: int = 0
    #: Messages of parked keys that were retried.
    retried: int = 0
    #: How often messages left the queue without a commit.
    removals: int = 0
    last_removal: Removal | None = None
    last_error: LastError | None = None


class ComputationMeasurements(msgspec.Struct, omit_defaults=True, gc=False):
    """The measurements of one computation, over all partitions. Best effort: a killed worker loses its last second."""

    #: Messages that were applied; of a stage that runs in the step of another one, the values that it got.
    processed: int = 0
    #: Attempts that raised.
    failed: int = 0
    #: Those after which the message is retried by itself.
    retried: int = 0
    #: Messages that became dead letters.
    dead: int = 0
    #: Calls of a batch computation. `processed` divided by them: how many messages a call gets.
    batches: int = 0
    #: As in `Measurements`.
    latency: Histogram = msgspec.field(default_factory=_latency)
    #: Seconds of one call. Calls of one batch of a plain computation count with their mean.
    computation: Histogram = msgspec.field(default_factory=_computation)
    last_error: LastError | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Measurements).decode
_decode_computation = msgspec.json.Decoder(ComputationMeasurements).decode
_LENGTHS = {
    "latency": len(LATENCY_SECONDS) + 1,
    "batch": len(BATCH_MESSAGES) + 1,
    "commit": len(COMMIT_SECONDS) + 1,
    "computation": len(COMPUTATION_SECONDS) + 1,
}


def dump_measurements(found: Measurements | ComputationMeasurements) -> bytes:
    return _encode(found)


def load_measurements(text: bytes | None) -> Measurements:
    """Decode JSON. What can't be decoded, or has other bounds because another version wrote it, counts as empty."""
    if text is None:
        return Measurements()
    try:
        found = _decode(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return Measurements()
    for name, length in _LENGTHS.items():
        if len(getattr(found, name).counts) != length:
            setattr(found, name, Histogram([0] * length))
    return found


def load_computation(text: bytes) -> ComputationMeasurements:
    """Decode JSON, as `load_measurements` does."""
    try:
        found = _decode_computation(text)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ComputationMeasurements()
    for name in ("latency", "computation"):
        if len(getattr(found, name).counts) != _LENGTHS[name]:
            setattr(found, name, Histogram([0] * _LENGTHS[name]))
    return found


def merged(parts: Iterable[Measurements]) -> Measurements:
    """The sum of several partitions' measurements."""
    whole = Measurements()
    for part in parts:
        for name in _LENGTHS:
            mine, its = getattr(whole, name), getattr(part, name)
            mine.counts = [a + b for a, b in zip(mine.counts, its.counts, strict=True)]
            mine.total += its.total
        whole.takeovers += part.takeovers
        whole.fenced += part.fenced
        whole.cache_hits += part.cache_hits
        whole.cache_misses += part.cache_misses
        whole.retried += part.retried
        whole.removals += part.removals
        if part.last_removal is not None and (whole.last_removal is None or part.last_removal.at > whole.last_removal.at):
            whole.last_removal = part.last_removal
        its_error, mine_error = part.last_error, whole.last_error
        if its_error is not None and (mine_error is None or its_error.at > mine_error.at):
            whole.last_error = its_error
    return whole
