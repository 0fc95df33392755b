"""The cost of reading the overview of a whole group (as the page and `partitions top` do every 2 s), with many partitions and keys."""

from __future__ import annotations

import dataclasses
import statistics
import threading
import time
from typing import Any, cast

import msgspec
import redis

from celery_partitions.admin.history import KEPT_SECONDS, MIN_SECONDS
from celery_partitions.admin.watcher import Watcher
from celery_partitions.runtime.group import Group
from celery_partitions_config.settings import Settings
from tests.benchmarks.bench import Bench, partition_queues
from tests.benchmarks.samples import Row, Samples, Target, alternate

#: Reads per round, one after another: enough for a median.
LOOKS = 50


def measure(bench: Bench) -> list[Row]:
    partitions, keys = bench.size.many_partitions, bench.size.many_keys
    settings: dict[str, object] = {"PARTITIONS": partitions}
    bench.clear()
    bench.run("partitioned_client.py", "fill-keys", "--keys", keys, **settings)
    with bench.worker("partitioned", **settings) as worker:
        bench.watch(partition_queues(partitions), [worker])
    watch = Watcher(Group(Settings(redis_url=bench.redis_url, partitions=partitions)), every_seconds=0)
    remember(watch)
    server: list[float] = []

    def still() -> float:
        with bench.client() as client:
            before = used_seconds(client)
            taken = [look(watch) for _ in range(LOOKS)]
            server.append((used_seconds(client) - before) * 1000 / LOOKS)
        return statistics.median(taken) * 1000

    def flowing() -> float:
        taken: list[float] = []
        ended = threading.Event()

        def looking() -> None:
            while not ended.wait(0.1):
                taken.append(look(watch))

        bench.run("partitioned_client.py", "fill", "--count", bench.size.depth, "--keys", bench.size.keys, **settings)
        with bench.worker("partitioned", **settings) as worker:
            thread = threading.Thread(target=looking)
            thread.start()
            try:
                bench.watch(partition_queues(partitions), [worker])
            finally:
                ended.set()
                thread.join()
        return statistics.median(taken) * 1000

    answered = alternate(bench.rounds, {"at rest": still, "while a worker applies messages": flowing})
    of_server = Samples(server)
    group = f"{partitions} partitions, {keys:,} keys"
    note = "From the question to the JSON that the page is sent, in one process; the states are weighed every 30 s."
    return [
        Row(
            measure=f"reading the whole group's overview, {group}",
            unit="ms",
            ours=answered["at rest"].median,
            target=Target("at most", 200.0, " ms"),
            note=note,
            samples={"at rest": answered["at rest"]},
        ),
        Row(
            measure=f"the same while a worker applies messages as fast as it can, {group}",
            unit="ms",
            ours=answered["while a worker applies messages"].median,
            target=Target("at most", 200.0, " ms"),
            note="On a machine whose processors are all at work.",
            samples={"flowing": answered["while a worker applies messages"]},
        ),
        Row(
            measure=f"server time for one read per {MIN_SECONDS:g} s, {group}",
            unit="%",
            ours=of_server.median / (MIN_SECONDS * 10),
            target=Target("at most", 2.0, " %"),
            note=f"Its processor time (INFO cpu) over {LOOKS} looks: {of_server.median:.2f} ms each.",
            samples={"ms a look": of_server},
        ),
    ]


def remember(watch: Watcher) -> None:
    """Fill a watcher with five minutes of history."""
    overview = watch.look()  # connects, and reads the computations
    points = int(KEPT_SECONDS / MIN_SECONDS)
    for number in range(points):
        watch.history.add(dataclasses.replace(overview, at=overview.at - (points - number) * MIN_SECONDS))


def look(watch: Watcher) -> float:
    """The seconds of one read."""
    began = time.perf_counter()
    msgspec.json.encode(watch.to_json())
    return time.perf_counter() - began


def used_seconds(client: redis.Redis) -> float:
    """The server's processor time so far."""
    meta = cast(dict[str, Any], client.info("cpu"))
    return float(meta["used_cpu_user"]) + float(meta["used_cpu_sys"])
