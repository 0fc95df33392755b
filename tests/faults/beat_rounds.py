"""Two workers run a beat schedule and are killed in turns. `python -m tests.faults.beat_rounds --seconds 600` does it for ten minutes.

The id of a task that a timer sends contains when its run was due, so the queues show each run that was sent.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from celery_partitions.model.messages import name_of
from tests.fundamentals.live import LiveGroup
from tests.support.applications import scheduled
from tests.support.applications.scheduled import EVERY_MS, MINUTES, TICKS
from tests.support.environment import clear_environment
from tests.support.server import RedisServer
from tests.support.wait import wait_until

ENV = {"PARTITIONS": 4, "PARTITIONS_BEAT": 1, "PARTITIONS_BEAT_CATCH_UP": "all", "PARTITIONS_LEASE_SECONDS": 1}


def play(live: LiveGroup, rounds: Iterable[object], runs_between: int) -> int:
    """Kill one of two workers in turns, and start another one in its place. After each kill, wait until the schedule has run
    `runs_between` times more. Returns the number of kills."""
    workers = [live.start_worker(module=scheduled.__name__) for _ in range(2)]
    kills = 0
    for _ in rounds:
        before = live.client.llen(TICKS)
        wait_until(lambda: live.client.llen(TICKS) >= before + runs_between, message="the schedule does not run")  # noqa: B023
        workers.pop(0).kill()
        workers.append(live.start_worker(module=scheduled.__name__))
        kills += 1
    before = live.client.llen(TICKS)
    wait_until(lambda: live.client.llen(TICKS) > before)
    for worker in workers:
        worker.terminate()
        worker.wait()
    return kills


def dues(live: LiveGroup, queue: str) -> list[int]:
    """When the runs in a queue were due, in the order in which they were sent. In ms."""
    ids = [name_of(raw)[1] for raw in reversed(live.client.lrange(queue, 0, -1))]
    return [int(str(one).rsplit("-", 1)[1].split(".")[0]) for one in ids]


def wrong(found: Sequence[int], every_ms: int) -> list[str]:
    """Where a run is missing, twice, or too late."""
    return [f"{before} was followed by {after}" for before, after in pairwise(found) if after - before != every_ms]


def until(seconds: float) -> Iterator[None]:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults.beat_rounds", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0)
    seconds = parser.parse_args().seconds
    clear_environment()
    with tempfile.TemporaryDirectory() as directory, RedisServer() as server, LiveGroup(server.url(), Path(directory), **ENV) as live:
        kills = play(live, until(seconds), runs_between=25)
        minutes, ticks = dues(live, MINUTES), dues(live, TICKS)
    found = wrong(minutes, 60_000) + wrong(ticks, EVERY_MS)
    print(f"{kills} kills in {seconds:g} s; {len(minutes)} runs each minute, {len(ticks)} each {EVERY_MS} ms; wrong: {found or 'none'}")
    return int(bool(found))


if __name__ == "__main__":
    raise SystemExit(main())
