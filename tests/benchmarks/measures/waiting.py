"""Calls that wait: many keys in flight in one worker, compared with one call at a time, with a bare event loop, and with Celery's pools.

A rate counts processed messages, not those that left the queue: a call that waits long has its message in its key's mailbox.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path

from tests.benchmarks.bench import LOOK_SECONDS, STALLED_SECONDS, Bench, Worker, last_line, messages_processed
from tests.benchmarks.runs import PARTITIONS, checked
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target, alternate

#: The default of PARTITIONS_CONCURRENCY, which the short calls use, and the `concurrency=` of the others.
SHORT, LONG, THREADS = 100, 1000, 32
#: Longer than a worker takes to start.
LEASE_SECONDS = 5.0
SETTINGS = {"PARTITIONS": PARTITIONS}


def measure(bench: Bench) -> list[Row]:
    size = bench.size
    short = partial(ours, bench, "short", size.waiting_messages, size.waiting_keys)
    taken = alternate(
        bench.rounds,
        {
            "2 ms, async": short,
            "2 ms, one key hangs": partial(short, hang=True),
            "2 ms, plain computation": partial(one_at_a_time, bench),
            "2 ms, bare event loop": partial(bare, bench, size.waiting_messages, size.waiting_keys, SHORT, 0.002),
            "100 ms, async": partial(ours, bench, "long", size.waiting_messages // 2, size.keys),
            "100 ms, Celery -P gevent -c 1000": partial(celery, bench, "gevent", LONG, 0.1),
            "20 ms, threads": partial(ours, bench, "threads", size.threaded_messages, size.keys),
            "20 ms, Celery -P threads -c 32": partial(celery, bench, "threads", THREADS, 0.02),
        },
    )
    compare = partial(row, taken)
    return [
        compare("2 ms, async", "2 ms, plain computation", Target("at least", 40, "×"), f"{size.waiting_keys:,} keys, concurrency {SHORT}"),
        compare("2 ms, async", "2 ms, bare event loop", Target("at least", 0.5, "×"), f"The bare loop also has {SHORT} calls at once."),
        compare("2 ms, one key hangs", "2 ms, async", Target("at least", 0.95, "×"), "Messages/s of the other keys."),
        compare(
            "100 ms, async",
            "100 ms, Celery -P gevent -c 1000",
            Target("at least", 5, "×"),
            f"{size.keys:,} keys, concurrency {LONG}. Celery's task has HGET and HSET, no order, and loses updates.",
        ),
        compare("20 ms, threads", "20 ms, Celery -P threads -c 32", Target("at least", 1, "×"), f"{THREADS} threads each."),
        running_again(bench),
    ]


def row(taken: dict[str, Samples], mine: str, against: str, target: Target, note: str) -> Row:
    ours, theirs = taken[mine].median, taken[against].median
    return Row(
        measure=f"messages/s of calls that wait {mine}, one worker",
        unit="messages/s",
        ours=ours,
        against=against,
        theirs=theirs,
        target=target,
        note=note,
        samples={mine: taken[mine], against: taken[against]},
    )


def ours(bench: Bench, computation: str, count: int, keys: int, *, hang: bool = False) -> float:
    bench.clear()
    workload = ("--computation", computation, "--count", count, "--keys", keys)
    if hang:
        bench.run("waiting_client.py", "hang", "--computation", computation, **SETTINGS)
    bench.run("waiting_client.py", "fill", *workload, **SETTINGS)
    with bench.worker("waiting", **SETTINGS) as worker:
        rate = rate_of(bench, count, worker)
    checked(bench.run("waiting_client.py", "check", *workload, **SETTINGS))
    return rate


def one_at_a_time(bench: Bench) -> float:
    """The plain computation that sleeps. Every message takes as long, so few of them are enough."""
    count = bench.size.slow_messages
    bench.clear()
    workload = ("--computation", "waiting", "--count", count, "--keys", bench.size.keys)
    bench.run("partitioned_client.py", "fill", *workload, **SETTINGS)
    with bench.worker("partitioned", **SETTINGS) as worker:
        return rate_of(bench, count, worker)


def bare(bench: Bench, count: int, keys: int, concurrency: int, seconds: float) -> float:
    workload = ("--count", count, "--keys", keys, "--concurrency", concurrency, "--seconds", seconds)
    return float(checked(bench.run("bare_asyncio.py", *workload))["rate"])


def celery(bench: Bench, pool: str, concurrency: int, seconds: float) -> float:
    """Celery's own tasks. Their states are not checked: concurrent tasks of a key overwrite each other's."""
    count = bench.size.plain_waiting_messages
    bench.clear()
    bench.run("plain_client.py", "fill", "--count", count, "--keys", bench.size.keys)
    arguments = ("worker", "--pool", pool, "--concurrency", str(concurrency), "--loglevel", "WARNING", "--hostname", "bench@%h")
    with bench.celery("plain", f"plain-{pool}", *arguments, WAIT_SECONDS=seconds) as worker:
        return bench.watch(["celery"], [worker]).rate()


def rate_of(bench: Bench, count: int, worker: Worker) -> float:
    """Messages/s from the first commit until `count` messages are processed."""
    return bench.watch_until_zero(lambda client: max(0, count - messages_processed(client, PARTITIONS)), [worker]).rate()


def running_again(bench: Bench) -> Row:
    """The time from kill -9 with many calls in flight until another worker has begun all of them again."""
    times = Samples()
    for number in range(bench.rounds):
        try:
            times.values.append(killed_once(bench))
        except CandidateFailedError as error:
            times.failures.append(str(error))
            print(f"    round {number + 1}: failed: {error}", flush=True)
        else:
            print(f"    round {number + 1}  all running again after: {times.values[-1]:.3g} s", flush=True)
    return Row(
        measure=f"seconds from kill -9 with {bench.size.calls_at_once:,} calls in flight until all run again",
        unit="s",
        ours=times.median,
        against="the lease",
        theirs=LEASE_SECONDS,
        own_score=times.median - LEASE_SECONDS,
        target=Target("at most", 1, " s"),
        note="Another worker starts when the first is killed. Score: the time beyond the lease.",
        samples={"all running again": times},
    )


def killed_once(bench: Bench) -> float:
    count = bench.size.calls_at_once
    bench.clear()
    bench.run("waiting_client.py", "fill-keys", "--computation", "counted", "--keys", count, **SETTINGS)
    with tempfile.TemporaryDirectory() as folder:
        begins = Path(folder, "begins")
        begins.touch()
        settings = {
            **SETTINGS,
            "PARTITIONS_LEASE_SECONDS": LEASE_SECONDS,
            "PARTITIONS_STOP_SECONDS": 0.1,
            "BEGINS_FILE": begins,
        }
        with bench.worker("waiting", **settings) as first:
            begun_since(begins, 0.0, count, first)
            with bench.worker("waiting", 2, **settings) as second:
                killed = time.monotonic()
                first.process.kill()
                return begun_since(begins, killed, count, second) - killed


def begun_since(begins: Path, since: float, count: int, worker: Worker) -> float:
    """Wait until the calls of `count` keys have begun. Returns when the last one did."""
    give_up = time.monotonic() + STALLED_SECONDS
    while True:
        rows = [line.split() for line in begins.read_text().splitlines()]
        first: dict[str, float] = {}
        for at, symbol in ((float(row[0]), row[1]) for row in rows if len(row) == 2):
            if at > since:
                first.setdefault(symbol, at)
        if len(first) >= count:
            return max(first.values())
        if worker.process.poll() is not None or time.monotonic() > give_up:
            raise CandidateFailedError(f"{count - len(first)} calls have not begun: {last_line(worker.log)}")
        time.sleep(LOOK_SECONDS)
