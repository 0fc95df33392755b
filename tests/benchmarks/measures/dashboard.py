"""What the dashboard takes: how soon its pages answer beside a busy group, and what an open page costs the worker."""

from __future__ import annotations

import contextlib
import signal
import statistics
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.bench import Bench, Worker, messages_left, partition_queues
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target
from tests.support.server import free_port
from tests.support.wait import wait_until

#: Between two requests of somebody who looks at one page after the other.
BETWEEN_REQUESTS_SECONDS = 0.25
#: Longer than Flower's start on a busy machine.
READY_SECONDS = 60.0

PAGE, API = "/partitions", "/api/partitions"


def measure(bench: Bench) -> list[Row]:
    size = bench.size
    opened, closed, page, api, pairs = Samples(), Samples(), Samples(), Samples(), Samples()
    for number in range(bench.rounds):
        try:
            rates, seconds = one_round(bench)
        except CandidateFailedError as error:
            for samples in (opened, closed, page, api, pairs):
                samples.failures.append(str(error))
            continue
        opened.values.append(statistics.median(rates[True]))
        closed.values.append(statistics.median(rates[False]))
        # Neighbours in time: what else the machine does changes slower than they follow each other.
        pairs.values += [after / before for before, after in zip(rates[False], rates[True], strict=False)]
        page.values.append(1000 * statistics.median(seconds[PAGE]))
        api.values.append(1000 * statistics.median(seconds[API]))
        print(
            f"    round {number + 1}  open: {opened.values[-1]:,.6g}, closed: {closed.values[-1]:,.6g} messages/s, "
            f"{PAGE}: {page.values[-1]:.3g} ms, {API}: {api.values[-1]:.3g} ms",
            flush=True,
        )
    group = f"{size.many_partitions} partitions, {size.many_keys:,} keys, messages flowing"
    answers = [
        Row(
            measure=f"answer of {path}",
            unit="ms",
            ours=samples.median,
            score=samples.median,
            target=Target("at most", 200.0, " ms"),
            note=f"Median of requests every {BETWEEN_REQUESTS_SECONDS:g} s, whole answer; {group}.",
            samples={"ours": samples},
        )
        for path, samples in ((PAGE, page), (API, api))
    ]
    return [
        *answers,
        Row(
            measure="stateful messages/s, one worker, dashboard open",
            unit="messages/s",
            ours=opened.median,
            against="itself, dashboard closed",
            theirs=closed.median,
            score=pairs.median,
            target=Target("at least", 0.98, "×"),
            note=f"One run, the page's live updates opened and closed every {size.dashboard_window_seconds:g} s; the ratio is the median of those of neighbours; closed: Flower stands still. {group}.",
            samples={"open": opened, "closed": closed, "open / closed, of neighbours": pairs},
        ),
    ]


def one_round(bench: Bench) -> tuple[dict[bool, list[float]], dict[str, list[float]]]:
    """Messages/s of each window, with the page open and closed; then seconds of each answer, while the rest flows."""
    size = bench.size
    settings = {"PARTITIONS": size.many_partitions}
    queues = partition_queues(size.many_partitions)
    bench.clear()
    bench.run("partitioned_client.py", "fill-keys", "--keys", size.many_keys, **settings)
    with bench.worker("partitioned", **settings) as worker:
        bench.watch(queues, [worker])
    bench.run("partitioned_client.py", "fill", "--count", size.dashboard_messages, "--keys", size.many_keys, **settings)
    with flower(bench, **settings) as (base, process), bench.worker("partitioned", **settings) as worker:
        for path in (PAGE, API):
            fetch(base + path)
        rates = windows(bench, base, process, queues, worker)
        seconds: dict[str, list[float]] = {PAGE: [], API: []}
        with bench.client() as client:
            while messages_left(client, queues):
                for path, taken in seconds.items():
                    begun = time.perf_counter()
                    fetch(base + path)
                    taken.append(time.perf_counter() - begun)
                    time.sleep(BETWEEN_REQUESTS_SECONDS)
    if not (rates[True] and rates[False] and seconds[API]):
        raise CandidateFailedError(f"{size.dashboard_messages} messages are too few to time")
    return rates, seconds


def windows(bench: Bench, base: str, flower: Worker, queues: list[str], worker: Worker) -> dict[bool, list[float]]:
    """Messages/s, the page closed and open in turn, until two thirds of the messages are gone.

    Flower reads the group for some minutes after somebody looked: while the page is closed its process stands still.
    """
    rates: dict[bool, list[float]] = {False: [], True: []}
    with bench.client() as client:
        full = messages_left(client, queues)
        # The first of them wait for the worker's start.
        wait_until(lambda: messages_left(client, queues) < 0.97 * full, READY_SECONDS, message="the worker does nothing")
        is_open = False
        while messages_left(client, queues) > full / 3:
            if worker.process.poll() is not None:
                raise CandidateFailedError("the worker exited")
            with listening(base + API + "/events") if is_open else standing_still(flower):
                before, begun = messages_left(client, queues), time.monotonic()
                time.sleep(bench.size.dashboard_window_seconds)
                after, ended = messages_left(client, queues), time.monotonic()
            if after:
                rates[is_open].append((before - after) / (ended - begun))
            is_open = not is_open
    return rates


@contextmanager
def standing_still(process: Worker) -> Iterator[None]:
    process.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        process.process.send_signal(signal.SIGCONT)


@contextmanager
def flower(bench: Bench, **settings: object) -> Iterator[tuple[str, Worker]]:
    """Flower's address, once it answers, and its process."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    words = ("flower", "--conf=config/flowerconfig.py", f"--port={port}", "--logging=warning")
    with bench.celery("partitioned", "flower", *words, FLOWER_UNAUTHENTICATED_API="true", **settings) as process:
        wait_until(lambda: process.process.poll() is not None or answers(base), READY_SECONDS, message="Flower does not answer")
        yield base, process


def answers(base: str) -> bool:
    try:
        fetch(base + "/healthcheck")
    except OSError:
        return False
    return True


def fetch(url: str) -> None:
    """The whole answer; an error status is an error."""
    with urllib.request.urlopen(url, timeout=30) as reply:
        reply.read()


@contextmanager
def listening(url: str) -> Iterator[None]:
    """As an open page does: take every event as it comes."""
    reply = urllib.request.urlopen(url, timeout=30)

    def take() -> None:
        with contextlib.suppress(OSError, ValueError):
            while reply.readline():
                pass

    thread = threading.Thread(target=take, daemon=True)
    thread.start()
    try:
        yield
    finally:
        with contextlib.suppress(OSError):
            reply.fp.raw._sock.shutdown(2)  # type: ignore[attr-defined]  # close alone would wait for the reader
        thread.join(5)
        reply.close()
