"""Histories in Redis: bounded lists of points per partition and per computation, written by workers, whether or not anyone looks.

A point has cumulative counters, so any two points give a rate, and a missing point loses nothing. A partition without points for a while had
no owner, or Redis was away. Two lists: a point every ten seconds for an hour, and every five minutes for two days.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple, cast

import msgspec
import redis

from celery_partitions.store.names import Names, Resolution
from celery_partitions.store.scripts import script

#: Seconds between two points, and how many are kept. Together at most 60 kB for a partition (a test measures it).
STEP_SECONDS: Mapping[Resolution, int] = {"fine": 10, "coarse": 300}
MAX_POINTS: Mapping[Resolution, int] = {"fine": 360, "coarse": 576}


class Latency(NamedTuple):
    """Quantiles of the last ten seconds, in seconds; None without messages."""

    p50: float | None = None
    p99: float | None = None


class Point(NamedTuple):
    """A partition, or a computation over all partitions, at one moment. Messages are counted since the group began."""

    #: Seconds since the epoch, by the server's clock.
    at: int
    #: Messages that left for good (of a computation: that were applied).
    left: int
    failed: int
    dead_lettered: int
    #: The next four at this moment; of a computation 0.
    waiting: int
    delayed: int
    parked: int
    dead_letters: int
    #: Microseconds; -1 without messages.
    p50: int
    p99: int

    @property
    def came(self) -> int:
        """Messages that arrived, up to a constant."""
        return self.left + self.waiting + self.delayed


_decode = msgspec.json.Decoder(list[Point]).decode


def add_points(
    client: redis.Redis,
    names: Names,
    partitions: Mapping[str, Latency],
    computations: Mapping[str, Latency],
    *,
    worker: str,
    report: bytes,
) -> None:
    """Add a point to each history that has none in this step yet, and write the worker's report. Called every ten seconds by each worker, with
    the partitions that it owns and the computations that it ran."""
    of_group = [names.computations, names.workers, names.reports]
    if not names.is_spread:
        _run(client, names, of_group, partitions, computations, worker, report)
        return
    _run(client, names, of_group, {}, computations, worker, report)
    for partition, latency in partitions.items():  # each on its own server, where nothing is at the first three keys
        _run(client, names, names.priority_lists(partition), {partition: latency}, {}, worker, report)


def _run(
    client: redis.Redis,
    names: Names,
    first_keys: list[str],
    partitions: Mapping[str, Latency],
    computations: Mapping[str, Latency],
    worker: str,
    report: bytes,
) -> None:
    keys = list(first_keys)
    words: list[Any] = [worker, report, len(partitions)]
    for resolution in STEP_SECONDS:
        words += [STEP_SECONDS[resolution], MAX_POINTS[resolution]]
    for partition, latency in partitions.items():
        keys += [names.meta(partition), names.queue(partition), names.delayed(partition), names.parked(partition), names.dead(partition)]
        keys += [names.history(partition, resolution) for resolution in STEP_SECONDS]
        words += [_micros(latency.p50), _micros(latency.p99)]
    for computation, latency in computations.items():
        keys += [names.computation_history(computation, resolution) for resolution in STEP_SECONDS]
        words += [computation, _micros(latency.p50), _micros(latency.p99)]
    script("add_points").run(client, keys, words)


def read_points(client: redis.Redis, keys: Sequence[str], limit: int) -> list[list[Point]]:
    """The newest `limit` points of each list, oldest first, in one round trip. A key of another type has none."""
    with client.pipeline(transaction=False) as pipe:
        for key in keys:
            pipe.lrange(key, 0, limit - 1)
        answers = pipe.execute(raise_on_error=False)
    found = []
    for answer in answers:
        if isinstance(answer, redis.RedisError) and not isinstance(answer, redis.ResponseError):
            raise answer
        found.append(parse(cast(list[bytes], answer)) if isinstance(answer, list) else [])
    return found


def parse(texts: Sequence[bytes]) -> list[Point]:
    """Decode points, newest first, into points, oldest first. Skips what another version wrote, and points that go back in time."""
    found: list[Point] = []
    for point in reversed(_decoded(texts)):
        if not found or point.at > found[-1].at:
            found.append(point)
    return found


def _decoded(texts: Sequence[bytes]) -> list[Point]:
    """As one JSON text, which takes a tenth of the time of text by text."""
    try:
        return _decode(b"[[" + b"],[".join(texts).replace(b" ", b",") + b"]]") if texts else []
    except msgspec.DecodeError:
        return [point for text in texts for point in _decoded([text])] if len(texts) > 1 else []


def _micros(seconds: float | None) -> int:
    return -1 if seconds is None else round(seconds * 1_000_000)
