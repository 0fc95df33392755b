"""What is measured of a partition's work and Redis does not count by itself, as values: histograms with fixed bounds, and counters.

Cumulative, since the group began. The JSON of `Measurements` is what lies in Redis; `lua/measure.lua` adds such values there.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence

import msgspec

#: Upper bounds of the histograms, shared by all that show them. One more count is of what is above the last.
LATENCY_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0, 3600.0)
COMMIT_SECONDS = (0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
COMPUTATION_SECONDS = (1e-6, 2.5e-6, 5e-6, 1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 1e-3, 5e-3, 0.025, 0.1, 0.5, 2.5, 10.0)
BATCH_MESSAGES = (1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0)


class Histogram(msgspec.Struct, gc=False):
    """How often something was how much, by bounds that stand elsewhere."""

    #: One for each bound: values up to it and above the one before; then one of those above the last.
    counts: list[int]
    #: Of all values.
    total: float = 0.0

    @property
    def count(self) -> int:
        return sum(self.counts)

    def observe(self, bounds: Sequence[float], value: float, times: int = 1) -> None:
        self.counts[bisect_left(bounds, value)] += times
        self.total += value * times

    def since(self, before: Histogram) -> Histogram:
        """What came after an earlier moment; all of it when that is not of the same one (it was deleted meanwhile)."""
        counts = [new - old for new, old in zip(self.counts, before.counts, strict=False)]
        if len(before.counts) != len(self.counts) or min(counts) < 0:
            return Histogram(list(self.counts), self.total)
        return Histogram(counts, max(0.0, self.total - before.total))

    def quantile(self, bounds: Sequence[float], share: float) -> float | None:
        """The value that `share` (0 to 1) of all are up to, as if they lay evenly between two bounds; None without any.

        Of what is above the last bound no more is known than that: it answers with that bound.
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
    """The failure or dead letter that came last."""

    text: str
    #: Seconds since the epoch, by the server's clock.
    at: float
    #: None of a message that does not say them.
    key: str | None = None
    message_id: str | None = None


def _latency() -> Histogram:
    return Histogram([0] * (len(LATENCY_SECONDS) + 1))


def _batch() -> Histogram:
    return Histogram([0] * (len(BATCH_MESSAGES) + 1))


def _commit() -> Histogram:
    return Histogram([0] * (len(COMMIT_SECONDS) + 1))


def _computation() -> Histogram:
    return Histogram([0] * (len(COMPUTATION_SECONDS) + 1))


class Measurements(msgspec.Struct, omit_defaults=True, gc=False):
    """Of one partition."""

    #: Seconds from a message's `sent_at` to the answer to its commit. Of a few messages of each batch, which stand for all of it;
    #: of messages that say when they were sent, and were not told to wait.
    latency: Histogram = msgspec.field(default_factory=_latency)
    #: Messages of a commit.
    batch: Histogram = msgspec.field(default_factory=_batch)
    #: Seconds from sending a commit to taking its answer. A worker of several partitions computes another's batch meanwhile.
    commit: Histogram = msgspec.field(default_factory=_commit)
    #: Seconds of computation for a message: a batch's, divided by its messages, as often as there are.
    computation: Histogram = msgspec.field(default_factory=_computation)
    #: Times that a worker began to hold the partition, which another or none had held.
    takeovers: int = 0
    #: Commits refused because another worker had taken over.
    fenced: int = 0
    #: States that a batch needed and that were in memory; and that were not, and were read from Redis.
    cache_hits: int = 0
    cache_misses: int = 0
    #: Messages of parked keys that were tried again.
    retried: int = 0
    last_error: LastError | None = None


_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Measurements).decode
_LENGTHS = {
    "latency": len(LATENCY_SECONDS) + 1,
    "batch": len(BATCH_MESSAGES) + 1,
    "commit": len(COMMIT_SECONDS) + 1,
    "computation": len(COMPUTATION_SECONDS) + 1,
}


def dump_measurements(found: Measurements) -> bytes:
    return _encode(found)


def load_measurements(text: bytes | None) -> Measurements:
    """From JSON. What is no such JSON, or has other bounds (another version wrote it), counts as nothing."""
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


def merged(parts: Iterable[Measurements]) -> Measurements:
    """All of several partitions, as of one."""
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
        its_error, mine_error = part.last_error, whole.last_error
        if its_error is not None and (mine_error is None or its_error.at > mine_error.at):
            whole.last_error = its_error
    return whole
