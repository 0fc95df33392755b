"""Several servers: throughput with 2 ms to each, hops between servers, and how long a failover takes."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.benchmarks.bench import Bench
from tests.benchmarks.measures.round_trips import DELAY_SECONDS
from tests.benchmarks.samples import CandidateFailedError, Row, Target, alternate
from tests.fundamentals.application import Sale, Step, record, sell
from tests.fundamentals.live import LiveGroup
from tests.support.cluster import RedisCluster
from tests.support.proxy import Proxy
from tests.support.server import RedisServer
from tests.support.wait import wait_until

PARTITIONS = 6
KEYS = 10_000
PATIENCE_SECONDS = 120.0
#: One at a time, each from sending to the target's state.
SINGLE_HOPS = 100


def measure(bench: Bench) -> list[Row]:
    count = bench.size.messages // 4
    far = alternate(bench.rounds, {"three": lambda: rate_at_a_distance(count, 3), "one": lambda: rate_at_a_distance(count, 1)})
    ways: dict[str, Mapping[str, object]] = {"waits": {}, "does not wait": {"PARTITIONS_WAIT_REPLICAS": 0}}
    hops = alternate(bench.rounds, {"one server": hop_on_one_server, **{name: lambda env=env: hop_on_a_cluster(**env) for name, env in ways.items()}})
    over = alternate(bench.rounds, {"ours": failover})
    hop = f"one message that sends one to another key: from sending to the other key's state, median of {SINGLE_HOPS}, one at a time"
    return [
        Row(
            measure=f"messages/s, one worker, {DELAY_SECONDS * 1000:g} ms to every server: three servers", unit="messages/s", ours=far["three"].median,
            against="one server", theirs=far["one"].median, target=Target("at least", 0.8, "×"), note=f"{count:,} queued, {KEYS:,} keys.", samples=far,
        ),
        Row(
            measure=f"{hop}; between servers with replicas", unit="ms", ours=hops["waits"].median, against="on one server", theirs=hops["one server"].median,
            target=Target("at most", 2.5, "×"), note="It waits for a replica.", samples=hops,
        ),
        Row(
            measure=f"{hop}; between servers with replicas", unit="ms", ours=hops["waits"].median, against="PARTITIONS_WAIT_REPLICAS=0",
            theirs=hops["does not wait"].median, note="The price of waiting for a replica.", samples=hops,
        ),
        Row(
            measure="a primary is killed: seconds from the cluster's own failover to the first message applied", unit="s", ours=over["ours"].median,
            target=Target("at most", 3.0, " s"), note="cluster-node-timeout 2 s, lease 5 s.", samples=over,
        ),
    ]  # fmt: skip


@contextmanager
def group(url: str, **env: object) -> Iterator[LiveGroup]:
    with tempfile.TemporaryDirectory(prefix="bench-") as directory, LiveGroup(url, Path(directory), PARTITIONS=PARTITIONS, **env) as live:
        yield live


def rate_at_a_distance(count: int, servers: int) -> float:
    """The worker reaches each server through a proxy that delays; the messages are there before it starts."""
    with ExitStack() as stack:
        running = [stack.enter_context(RedisServer()) for _ in range(servers if servers == 1 else servers + 1)]
        lines = [stack.enter_context(Proxy(one.host, one.port)) for one in running]
        for line in lines:
            line.delay_seconds = DELAY_SECONDS
        near = [f"{one.host}:{one.port}" for one in running]
        away = [f"127.0.0.1:{line.port}" for line in lines]
        spread = {} if servers == 1 else {"PARTITIONS_URL": "redis://" + ",".join(near[1:])}
        live = stack.enter_context(group(f"redis://{near[0]}/0", **spread))
        live.send(record, [Step(f"key-{number % KEYS}", number) for number in range(count)])
        live.start_worker(REDIS_URL=f"redis://{away[0]}/0", **({} if servers == 1 else {"PARTITIONS_URL": "redis://" + ",".join(away[1:])}))
        began, first = 0.0, 0

        def is_done() -> bool:
            nonlocal began, first
            done = live.processed()
            if done and not began:
                began, first = time.monotonic(), done
            return done >= count

        wait_until(is_done, PATIENCE_SECONDS, every=0.05)
        if first >= count:
            raise CandidateFailedError("too few messages to time")
        return (count - first) / (time.monotonic() - began)


def hop_on_one_server() -> float:
    with RedisServer() as server, group(server.url()) as live:
        partitions = {key: live.group.topology.partition_of(key) for key in (f"key-{n}-total" for n in range(40))}
        return single_hops(live, *different(partitions))


def hop_on_a_cluster(**env: object) -> float:
    with RedisCluster(replicas=1) as cluster, RedisServer() as control, group(control.url(), PARTITIONS_URL=cluster.url(), **env) as live:
        at = {key: live.client.address(live.names.queue(str(live.group.topology.partition_of(key)))) for key in (f"key-{n}-total" for n in range(40))}
        return single_hops(live, *different(at))


def different(at: Mapping[str, object]) -> tuple[str, str]:
    """Two keys with different places."""
    source, place = next(iter(at.items()))
    return source, next(key for key in at if at[key] != place)


def single_hops(live: LiveGroup, source: str, target: str) -> float:
    """The median, in milliseconds."""
    live.start_workers(1)
    times = []
    for number in range(SINGLE_HOPS):
        began = time.perf_counter()
        live.send(sell, [Sale(source, number, fails=False, forward_to=target)])
        while len(live.numbers_of(sell, target)) <= number:
            if time.perf_counter() - began > PATIENCE_SECONDS:
                raise CandidateFailedError("a hop does not arrive")
        times.append((time.perf_counter() - began) * 1000)
    return statistics.median(times)


def failover() -> float:
    with RedisCluster(replicas=1) as cluster, RedisServer() as control, group(control.url(), PARTITIONS_URL=cluster.url()) as live:
        live.start_workers(2)
        gone, watcher = cluster.primaries[0], cluster.primaries[1]
        keys = [f"key-{number}" for number in range(40)]
        key = next(one for one in keys if live.client.address(live.names.queue(str(live.group.topology.partition_of(one)))).endswith(f":{gone.port}"))
        live.send(record, [Step(key, 0)])
        wait_until(lambda: live.numbers_of(record, key) == [0], PATIENCE_SECONDS)
        wait_until(cluster.replicas_have_all, PATIENCE_SECONDS)
        gone.kill()
        wait_until(lambda: not cluster.serves_all(watcher), PATIENCE_SECONDS, every=0.01)
        wait_until(lambda: cluster.serves_all(watcher), PATIENCE_SECONDS, every=0.01)
        over = time.monotonic()
        number = 0

        def is_applied() -> bool:
            nonlocal number
            try:
                number += 1
                live.send(record, [Step(key, number)])
                return len(live.numbers_of(record, key)) > 1
            except Exception:  # the producer looks for the new primary, too
                return False

        wait_until(is_applied, PATIENCE_SECONDS, every=0.02)
        return time.monotonic() - over
