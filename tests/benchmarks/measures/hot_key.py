"""One key sends 100 times what all others send, 1 ms of work each: twice as much as a worker can do. How long the others wait."""

from __future__ import annotations

import statistics
from functools import partial

from tests.benchmarks.bench import OUTPUT, Bench
from tests.benchmarks.runs import checked
from tests.benchmarks.samples import CandidateFailedError, Row, Target, alternate

#: Messages/s of the quiet keys.
RATE = 20.0
#: The first messages run cold code.
WARM_UP = 10
SETTINGS = {"PARTITIONS": 1}


def measure(bench: Bench) -> list[Row]:
    taken = alternate(bench.rounds, {"with the hot key": partial(p99, bench, hot=True), "without it": partial(p99, bench, hot=False)})
    ours, theirs = taken["with the hot key"].median, taken["without it"].median
    return [
        Row(
            measure="p99 of quiet keys while one key sends 100 times as much, 1 ms of work each",
            unit="ms",
            ours=ours,
            against="without that key",
            theirs=theirs,
            target=Target("at most", 2, "×"),
            note=f"Sent → call ended. {RATE:g} messages/s of 50 quiet keys, one partition; the hot key sends twice what the worker can do.",
            samples=taken,
        )
    ]


def p99(bench: Bench, *, hot: bool) -> float:
    """Milliseconds."""
    bench.clear()
    effects = OUTPUT / "effects.txt"
    effects.unlink(missing_ok=True)
    count = WARM_UP + int(RATE * bench.size.latency_seconds)
    with bench.worker("hot_key", EFFECTS_FILE=effects, **SETTINGS):
        bench.run("hot_key_client.py", "--count", 1, "--rate", RATE, **SETTINGS)
        found = checked(bench.run("hot_key_client.py", "--count", count, "--rate", RATE, *(["--hot"] if hot else []), **SETTINGS))
    if hot:
        print(f"      the hot key: {found['done'] / found['seconds']:.0f} messages/s", flush=True)
    seconds = [float(line) for line in effects.read_text().split()][WARM_UP:]
    if len(seconds) < count - WARM_UP:
        raise CandidateFailedError(f"{count} messages sent, {len(seconds)} ran")
    return statistics.quantiles(seconds, n=100, method="inclusive")[98] * 1000
