"""How the cost of a message changes as the numbers of keys, partitions and queued messages grow."""

from __future__ import annotations

from collections.abc import Callable

from tests.benchmarks.bench import Bench, partition_queues
from tests.benchmarks.runs import PARTITIONS, checked, partitioned_drain
from tests.benchmarks.samples import Row, Target, alternate

#: The share of a deep queue, at each end, over which the cost of a message is measured.
END_FRACTION = 0.1


def measure(bench: Bench) -> list[Row]:
    size = bench.size
    few, many = f"{size.keys:,} keys", f"{size.many_keys:,} keys"
    least, limit = f"{PARTITIONS} partitions", f"{size.many_partitions} partitions"
    shallow, deep = "last tenth", "first tenth"

    def drained(**changed: int) -> float:
        options = {"count": size.messages, "keys": size.keys, "partitions": PARTITIONS, **changed}
        return microseconds(partitioned_drain(bench, **options).rate())

    def with_many_keys_there(used: int) -> float:
        """Give every key a state in Redis, then queue and time random trades of the first `used` keys."""
        bench.clear()
        bench.run("partitioned_client.py", "fill-keys", "--keys", size.many_keys, PARTITIONS=PARTITIONS)
        with bench.worker("partitioned", PARTITIONS=PARTITIONS) as worker:
            bench.watch(partition_queues(PARTITIONS), [worker])
        workload = ("--count", size.messages, "--keys", used)
        bench.run("partitioned_client.py", "fill", *workload, PARTITIONS=PARTITIONS)
        with bench.worker("partitioned", PARTITIONS=PARTITIONS) as worker:
            return microseconds(bench.watch(partition_queues(PARTITIONS), [worker]).rate())

    def raw_loop(keys: int) -> float:
        bench.clear()
        workload = ("--count", size.messages, "--keys", keys, "--fill-keys")
        return microseconds(float(checked(bench.run("raw_loop.py", *workload))["rate"]))

    stored = alternate(bench.rounds, {few: drained, many: lambda: with_many_keys_there(size.keys)})
    keys = alternate(bench.rounds, {few: drained, many: lambda: with_many_keys_there(size.many_keys)})
    raw = alternate(bench.rounds, {few: lambda: raw_loop(size.keys), many: lambda: raw_loop(size.many_keys)})
    partitions = alternate(
        bench.rounds, {least: drained, limit: lambda: drained(partitions=size.many_partitions)}
    )

    ends: dict[str, Callable[[], float]] = deep_queue(bench, shallow, deep)
    depth = alternate(bench.rounds, ends)
    at_most = Target("at most", 1.5, "×")
    random_keys = "All keys have a state; random ones of them are changed; the cache holds 100 000."
    grown = {
        f"keys stored {size.keys:,} → {size.many_keys:,}": (
            stored, few, many, at_most, f"Messages of {size.keys:,} keys, whatever else is stored.",
        ),
        f"keys changed {size.keys:,} → {size.many_keys:,}": (keys, few, many, at_most, random_keys),
        f"the same in the raw loop, {size.keys:,} → {size.many_keys:,}": (raw, few, many, None, random_keys),
        f"partitions {PARTITIONS} → {size.many_partitions}": (
            partitions, least, limit, at_most, "One worker owns them all.",
        ),
        f"queue depth: last tenth → first tenth of {size.depth:,}": (
            depth, shallow, deep, at_most, "Both ends of one run that empties the queue.",
        ),
    }  # fmt: skip
    return [
        Row(
            measure=f"cost of a message, {what}",
            unit="µs",
            ours=samples[after].median,
            against=f"itself, {before}",
            theirs=samples[before].median,
            target=target,
            note=note,
            samples=samples,
        )
        for what, (samples, before, after, target, note) in grown.items()
    ]


def deep_queue(bench: Bench, shallow: str, deep: str) -> dict[str, Callable[[], float]]:
    """Two candidates that each empty a deep queue; one is measured at its beginning, one at its end.

    The first tenth starts one hundredth late, so that the start of the process does not count.
    """
    count = bench.size.depth
    end = int(count * END_FRACTION)

    def emptied(above: int, below: int) -> float:
        return microseconds(partitioned_drain(bench, count, bench.size.keys).rate(above=above, below=below))

    return {
        shallow: lambda: emptied(end, 0),
        deep: lambda: emptied(count - count // 100, count - end),
    }


def microseconds(rate: float) -> float:
    """The time of one message at a rate of messages/s."""
    return 1e6 / rate
