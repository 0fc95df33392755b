"""Timers and keys that are due at once, the lateness of a timer when nothing else happens, and `migrate --check`.

The timers are set and become due while no worker runs. Then one starts.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import redis

from tests.benchmarks.bench import Bench, Drain, Worker, messages_left, partition_queues
from tests.benchmarks.runs import PARTITIONS
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target, alternate

#: How long after the last timer was set the first is due: all must be set until then.
SET_SECONDS = 5.0
#: The timers of the idle worker, and the time over which they are due.
IDLE_TIMERS, IDLE_SECONDS = 400, 8.0
#: The live traffic: calls one after the other, each with a result.
CALLS = 300


def measure(bench: Bench) -> list[Row]:
    count = bench.size.due
    meanwhile: list[float] = []

    def fired() -> float:
        bench.clear()
        set_timers(bench, count, spread=0)
        with started(bench) as worker:
            return watch_due(bench, worker).rate()

    def plain() -> float:
        bench.clear()
        fill(bench, "plain", count)
        with started(bench) as worker:
            bench.watch(partition_queues(PARTITIONS), [worker])
        fill(bench, "plain", count)
        with started(bench) as worker:
            return bench.watch(partition_queues(PARTITIONS), [worker]).rate()

    def call() -> Any:
        return bench.run("partitioned_client.py", "call", "--count", CALLS, "--keys", 10, PARTITIONS=PARTITIONS)

    def beside() -> float:
        bench.clear()
        set_timers(bench, count, spread=0)
        with started(bench) as worker, ThreadPoolExecutor(1) as thread:
            calls = thread.submit(call)
            drain = watch_due(bench, worker)
            found = calls.result()
        looks = [look for look in drain.looks if found["started_at"] <= look[0] <= found["ended_at"]]
        meanwhile.append((looks[0][1] - looks[-1][1]) / (looks[-1][0] - looks[0][0]))
        return 1000 * float(found["p99"])

    def alone() -> float:
        bench.clear()
        with started(bench):
            return 1000 * float(call()["p99"])

    def late() -> float:
        bench.clear()
        with started(bench) as worker:
            set_timers(bench, IDLE_TIMERS, spread=IDLE_SECONDS, wait=False)
            watch_due(bench, worker)
        return 1000 * float(bench.run("partitioned_client.py", "lateness", "--keys", IDLE_TIMERS, PARTITIONS=PARTITIONS)["p99"])

    taken = alternate(bench.rounds, {"timers": fired, "messages": plain, "beside": beside, "alone": alone, "late": late})
    ours, theirs = taken["timers"].median, taken["messages"].median
    return [
        Row(
            measure=f"{count:,} timers due at once, handled per second",
            unit="timers/s",
            ours=ours,
            against="messages of as many keys",
            theirs=theirs,
            target=Target("at least", 0.3, "×"),
            note="Set and due while no worker runs.",
            samples={name: taken[name] for name in ("timers", "messages")},
        ),
        Row(
            measure="p99 of a call with a result, while they are handled",
            unit="ms",
            ours=taken["beside"].median,
            against="without them",
            theirs=taken["alone"].median,
            target=Target("at most", 2.0, "×"),
            note=f"{CALLS} calls of `delay(…).get()`, one after the other.",
            samples={name: taken[name] for name in ("beside", "alone")},
        ),
        Row(
            measure="timers handled per second while these calls come",
            unit="timers/s",
            ours=Samples(meanwhile).median,
            against="messages of as many keys, without calls",
            theirs=theirs,
            note="Between the first and the last call.",
            samples={"meanwhile": Samples(meanwhile), "messages": taken["messages"]},
        ),
        Row(
            measure="lateness of a timer, idle worker, p99",
            unit="ms",
            ours=taken["late"].median,
            target=Target("at most", 50.0, " ms"),
            note=f"`timer.fired - timer.due`, by the server's clock. {IDLE_TIMERS} timers, one each {1000 * IDLE_SECONDS / IDLE_TIMERS:g} ms.",
            samples={"late": taken["late"]},
        ),
        *measure_keys(bench),
    ]


def measure_keys(bench: Bench) -> list[Row]:
    keys = bench.size.many_keys
    left: list[float] = []
    checked: list[float] = []

    def expired() -> float:
        bench.clear()
        before = used_memory(bench)
        ttl = SET_SECONDS + keys / 5_000
        began = time.monotonic()
        fill(bench, "expiring", keys)
        with started(bench, BENCH_TTL=ttl) as worker:
            bench.watch(partition_queues(PARTITIONS), [worker])
        full = used_memory(bench)
        checked.append(seconds_of_check(bench))
        # A key is due up to 2 % after its ttl.
        time.sleep(max(0.0, began + 1.05 * ttl + SET_SECONDS - time.monotonic()))
        with started(bench, BENCH_TTL=ttl) as worker:
            drain = watch_due(bench, worker)
            left.append(100 * (used_memory(bench) - before) / (full - before))
        return drain.ended_at - next(at for at, count in drain.looks if count < drain.looks[0][1])

    taken = alternate(1, {"expired": expired})
    return [
        Row(
            measure=f"seconds until {keys:,} keys are expired",
            unit="s",
            ours=taken["expired"].median,
            target=Target("at most", 60.0, " s"),
            note="All are due when the worker starts.",
            samples=taken,
        ),
        Row(
            measure="of the memory that these keys took, what is left then",
            unit="%",
            ours=Samples(left).median,
            target=Target("at most", 3.0, " %"),
            note="`used_memory` of the server.",
            samples={"ours": Samples(left)},
        ),
        Row(
            measure=f"`migrate --check` of {keys:,} small states",
            unit="s",
            ours=Samples(checked).median,
            target=Target("at most", 60.0, " s"),
            note="With the start of the process.",
            samples={"ours": Samples(checked)},
        ),
    ]


def fill(bench: Bench, computation: str, keys: int) -> None:
    bench.run("partitioned_client.py", "fill-keys", "--computation", computation, "--keys", keys, PARTITIONS=PARTITIONS)


def set_timers(bench: Bench, count: int, *, spread: float, wait: bool = True) -> None:
    """Set timers. `wait`: by a worker of its own, and until all are due."""
    after = SET_SECONDS * (4 if wait else 1) + (count / 3_000 if wait else 0)
    arguments = ("set-timers", "--keys", count, "--after", after, "--spread", spread)
    begin = float(bench.run("partitioned_client.py", *arguments, PARTITIONS=PARTITIONS)["begin"])
    if wait:
        with started(bench) as worker:
            bench.watch(partition_queues(PARTITIONS), [worker])
        if time.time() > begin:
            raise CandidateFailedError("the timers were due before all were set")
        time.sleep(begin - time.time())


@contextmanager
def started(bench: Bench, **settings: object) -> Iterator[Worker]:
    with bench.worker("partitioned", PARTITIONS=PARTITIONS, **settings) as worker:
        yield worker


def watch_due(bench: Bench, worker: Worker) -> Drain:
    """Until no timer and no message is left."""

    def left(client: redis.Redis) -> int:
        timers = sum(client.zcard(f"{{partition.{number}}}:delayed") for number in range(PARTITIONS))
        return timers + messages_left(client, partition_queues(PARTITIONS))

    return bench.watch_until_zero(left, [worker])


def used_memory(bench: Bench) -> int:
    with bench.client() as client:
        info: Any = client.info("memory")
        return int(info["used_memory"])


def seconds_of_check(bench: Bench) -> float:
    began = time.monotonic()
    bench.run_command("migrate", "--check", "--json", PARTITIONS=PARTITIONS)
    return time.monotonic() - began
