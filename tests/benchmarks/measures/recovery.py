"""Messages/s in the first second after a worker took over from a killed one, compared with the rate of the killed one."""

from __future__ import annotations

import time

from tests.benchmarks.bench import LOOK_SECONDS, STALLED_SECONDS, Bench, messages_left, partition_queues
from tests.benchmarks.runs import PARTITIONS, checked
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target, ratio

#: The first worker is killed when this fraction of the queue is left.
KILLED_AT = 0.6
#: The time from the second worker's first commit. During it, the second worker searches for a poison message.
WINDOW_SECONDS = 1.0
LEASE_SECONDS = 1


def measure(bench: Bench) -> list[Row]:
    before, after = Samples(), Samples()
    for number in range(bench.rounds):
        try:
            usual, recovered = killed_once(bench)
        except CandidateFailedError as error:
            after.failures.append(str(error))
            print(f"    round {number + 1}: failed: {error}", flush=True)
        else:
            before.values.append(usual)
            after.values.append(recovered)
            print(f"    round {number + 1}: {usual:,.0f} before, {recovered:,.0f} after: {ratio(recovered, usual):.2f}×", flush=True)
    ratios = Samples([ratio(one, other) for one, other in zip(after.values, before.values, strict=True)])
    return [
        Row(
            measure="messages/s in the first second after a takeover from a worker that was killed",
            unit="messages/s",
            ours=after.median,
            against="the killed worker, until then",
            theirs=before.median,
            own_score=ratios.median,
            target=Target("at least", 0.5, "×"),
            note=f"{bench.size.depth:,} queued in {PARTITIONS} partitions; the score is the median of the rounds' ratios.",
            samples={"after": after, "before": before},
        )
    ]


def killed_once(bench: Bench) -> tuple[float, float]:
    """The rate of a worker from its first commit until it is killed, and the next one's in its first second."""
    count, keys = bench.size.depth, bench.size.keys
    settings = {"PARTITIONS": PARTITIONS, "PARTITIONS_LEASE_SECONDS": LEASE_SECONDS}
    bench.clear()
    bench.run("partitioned_client.py", "fill", "--count", count, "--keys", keys, **settings)
    with bench.worker("partitioned", **settings) as first:
        usual, left = watched(bench, count, until=int(count * KILLED_AT))
        first.process.kill()
        first.process.wait()
    with bench.worker("partitioned", 2, **settings):
        recovered, _ = watched(bench, left, window=WINDOW_SECONDS)
        watched(bench, left)
    checked(bench.run("partitioned_client.py", "check", "--count", count, "--keys", keys, **settings))
    return usual, recovered


def watched(bench: Bench, full: int, until: int = 0, window: float = float("inf")) -> tuple[float, int]:
    """Messages/s since the first commit, until at most `until` are left or the window is over; and how many are left."""
    begun: tuple[float, int] | None = None
    give_up = time.monotonic() + STALLED_SECONDS
    with bench.client() as client:
        while True:
            left, now = messages_left(client, partition_queues(PARTITIONS)), time.monotonic()
            if begun is None and left < full:
                begun = now, left
            if begun is not None and now > begun[0] and (left <= until or now - begun[0] >= window):
                return (begun[1] - left) / (now - begun[0]), left
            if now > give_up:
                raise CandidateFailedError(f"{left} messages left after {STALLED_SECONDS:g} s")
            time.sleep(LOOK_SECONDS)
