"""A partition's measurements as values: histograms with fixed bounds, and counters that commits do not keep.

All values are cumulative since the group began. They are stored as the JSON of `Measurements`; `lua/measure.lua` adds to them.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from typing import Any, TypeVar

import msgspec

from celery_partitions.store.decoding import decoded

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


#: The histograms by the name of their field.
BOUNDS: Mapping[str, Sequence[float]] = {
    "latency": LATENCY_SECONDS,
    "batch": BATCH_MESSAGES,
    "commit": COMMIT_SECONDS,
    "computation": COMPUTATION_SECONDS,
}


def _histogram(name: str) -> Any:
    """A field with an empty histogram."""
    return msgspec.field(default_factory=lambda: Histogram([0] * (len(BOUNDS[name]) + 1)))


class Measurements(msgspec.Struct, omit_defaults=True, gc=False):
    """The measurements of one partition."""

    #: Seconds from a message's `sent_at` to the answer to its commit. Sampled: a few messages of each batch represent all of them. Only
    #: messages that have `sent_at` and were not delayed count.
    latency: Histogram = _histogram("latency")
    #: Messages per commit.
    batch: Histogram = _histogram("batch")
    #: Seconds from sending a commit to handling its answer. A worker with several partitions runs another partition's batch meanwhile.
    commit: Histogram = _histogram("commit")
    #: Seconds of computation per message: a batch's time divided by its messages, counted once for each message.
    computation: Histogram = _histogram("computation")
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


#: What workers pushed into a Redis list or stream is measured as `processed` of this and its name. No computation's name begins so.
SINK = "\tsink "


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
    latency: Histogram = _histogram("latency")
    #: Seconds of one call. Calls of one batch of a plain computation count with their mean.
    computation: Histogram = _histogram("computation")
    last_error: LastError | None = None


M = TypeVar("M", Measurements, ComputationMeasurements)
_decoder = cache(msgspec.json.Decoder)


def dump_measurements(found: Measurements | ComputationMeasurements) -> bytes:
    return msgspec.json.encode(found)


def load_measurements(text: bytes | None, kind: type[M] = Measurements) -> M:  # type: ignore[assignment]
    """Decode JSON. What can't be decoded, or has other bounds because another version wrote it, counts as empty."""
    found: M | None = None if text is None else decoded(_decoder(kind).decode, text)
    if found is None:
        return kind()
    for name, bounds in BOUNDS.items():
        if name in kind.__struct_fields__ and len(getattr(found, name).counts) != len(bounds) + 1:
            setattr(found, name, getattr(kind(), name))
    return found


def merged(parts: Iterable[Histogram]) -> Histogram:
    """The sum of several histograms with the bounds of latencies."""
    whole = Measurements().latency
    known = [whole, *parts]
    return Histogram([sum(column) for column in zip(*(part.counts for part in known), strict=True)], sum(part.total for part in known))
