"""Rate limits, counted from outside while workers are killed: how much of a limit is used, and whether more than it ever starts.

Messages wait for both limits all the time. One limit is shared by all keys, and so by both workers; the other is of each key, which stands still from
the kill of its worker until another one has its partition.
"""

from __future__ import annotations

import itertools
import os
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from tests.benchmarks.bench import LOOK_SECONDS, STALLED_SECONDS, Bench, Worker, last_line
from tests.benchmarks.rates import BURSTS, RATES
from tests.benchmarks.runs import PARTITIONS
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target

KEYS = {"shared": 60, "per-key": 8}
#: Short, as the time for which a dead worker's partitions stand.
LEASE_SECONDS = 2.0
#: One of the two workers is killed so often, and one starts in its place at once.
KILL_SECONDS = 20.0
#: Part of the limit that a window may exceed: a call starts a little after its token was taken, and one before it may have started late.
LATE_SECONDS = 1.0


def measure(bench: Bench) -> list[Row]:
    seconds = bench.size.limits_seconds
    rows = []
    starts = starts_with_kills(bench, seconds)
    for name, rate in RATES.items():
        of_name = [times for bucket, times in starts.items() if bucket.startswith(name)]
        used = Samples([used_of(times, rate, BURSTS[name]) for times in of_name])
        beyond = max(seconds_beyond(times, rate, BURSTS[name]) for times in of_name)
        stands = max(longest_gap(times) for times in of_name)
        rows.append(
            Row(
                measure=f"part of a rate limit that is used, {name}, {seconds:g} s, a kill every {KILL_SECONDS:g} s",
                unit="of the limit",
                ours=used.median,
                against="the limit",
                theirs=1.0,
                target=Target("at least", 0.95, "×"),
                note=f"{rate:g}/s, lease {LEASE_SECONDS:g} s. The longest time without a start: {stands:.2f} s. A window held what the limit allows in {beyond:.3f} s more.",
                samples={"used": used},
            )
        )
        if beyond > LATE_SECONDS:
            raise CandidateFailedError(f"{name}: calls started as if a window were {beyond:.2f} s longer")
    return rows


def starts_with_kills(bench: Bench, seconds: float) -> dict[str, list[float]]:
    """The times of the calls' starts by bucket, from the time on when both workers run."""
    bench.clear()
    counts = {"shared": RATES["shared"] * seconds * 2, "per-key": RATES["per-key"] * seconds * 2 * KEYS["per-key"]}
    for name, count in counts.items():
        bench.run("limited_client.py", "--computation", name, "--count", int(count), "--keys", KEYS[name], PARTITIONS=PARTITIONS)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        file = Path(folder, "starts")
        file.touch()
        settings = {"PARTITIONS": PARTITIONS, "PARTITIONS_LEASE_SECONDS": LEASE_SECONDS, "STARTS_FILE": file}
        workers = [stack.enter_context(bench.worker("limited", number, **settings)) for number in (1, 2)]
        wait_for_start(file, workers)
        began, number = time.monotonic() + 2 * LEASE_SECONDS, 2  # when both have partitions
        for kill in range(1, int(seconds // KILL_SECONDS) + 1):
            time.sleep(max(0.0, began + kill * KILL_SECONDS - time.monotonic()))
            number += 1
            victim = workers.pop(0)
            workers.append(stack.enter_context(bench.worker("limited", number, **settings)))
            victim.process.kill()
            print(f"    worker {number - 2} killed", flush=True)
        time.sleep(max(0.0, began + seconds - time.monotonic()))
        found: dict[str, list[float]] = {}
        for line in file.read_text().splitlines():
            at, bucket = line.split()
            if began <= float(at) <= began + seconds:
                found.setdefault(bucket, []).append(float(at))
        if keep := os.environ.get("KEEP_STARTS"):
            Path(keep).write_text(file.read_text())
    return {bucket: sorted(times) for bucket, times in found.items()}


def wait_for_start(file: Path, workers: list[Worker]) -> None:
    give_up = time.monotonic() + STALLED_SECONDS
    while not file.stat().st_size:
        if time.monotonic() > give_up:
            raise CandidateFailedError(f"no call has started: {last_line(workers[0].log)}")
        time.sleep(LOOK_SECONDS)


def used_of(times: list[float], rate: float, burst: int) -> float:
    return (len(times) - burst) / ((times[-1] - times[0]) * rate)


def longest_gap(times: list[float]) -> float:
    return max(after - before for before, after in itertools.pairwise(times))


def seconds_beyond(times: list[float], rate: float, burst: int) -> float:
    """By how many seconds each window must be longer, so that the limit allows all calls that started in it."""
    beyond, least = 0.0, times[0] - times[0]
    for number, at in enumerate(times):
        ahead = number / rate - (at - times[0])
        least = min(least, ahead)
        beyond = max(beyond, ahead - least - (burst - 1) / rate)
    return beyond
