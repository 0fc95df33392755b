"""A resize while messages come: how long the keys take to move, how long a key waits, and how many messages are done meanwhile."""

from __future__ import annotations

from tests.benchmarks.bench import Bench
from tests.benchmarks.runs import checked
from tests.benchmarks.samples import Row, Samples, Target

BEFORE, AFTER = 8, 16
#: Messages a second, which two workers do easily: so no message waits for another.
RATE = 3000


def measure(bench: Bench) -> list[Row]:
    keys = bench.size.resized_keys
    seconds, longest, usual, during = Samples(), Samples(), Samples(), Samples()
    for number in range(bench.rounds):
        bench.clear()
        settings = {"PARTITIONS": BEFORE, "PARTITIONS_UNSIGNED_STATES": 1}
        with bench.worker("resized", **settings), bench.worker("resized", 2, **settings):
            found = checked(bench.run("resized_client.py", "--keys", keys, "--to", AFTER, "--rate", RATE, **settings))
        seconds.values.append(float(found["seconds"]))
        longest.values.append(float(found["longest"]))
        usual.values.append(float(found["usual"]))
        during.values.append(float(found["during"]))
        print(f"    round {number + 1}: moved in {found['seconds']:.2f} s, longest wait {found['longest']:.2f} s", flush=True)
    what, note = f"resize {BEFORE} → {AFTER}, {keys:,} keys", f"{RATE:,} messages/s to random keys, two workers; in order and once."
    return [
        Row(
            measure=f"{what}: the longest wait of a message", unit="s", ours=longest.median,
            target=Target("at most", 2.0, " s"), note=f"{note} All keys had moved after {seconds.median:.1f} s.", samples={"wait": longest, "moved": seconds},
        ),
        Row(
            measure=f"{what}: messages/s while keys move", unit="messages/s", ours=during.median, against="before", theirs=usual.median,
            target=Target("at least", 0.6, "×"), note=note, samples={"during": during, "before": usual},
        ),
    ]
