"""The cost of the dashboard: how fast its pages answer while the group is busy, and how much an open page slows the worker."""

from __future__ import annotations

import contextlib
import os
import signal
import statistics
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.benchmarks.bench import Bench, messages_left, partition_queues
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target
from tests.support.server import free_port
from tests.support.wait import wait_until

#: The pause between two requests of a user who opens one page after another.
BETWEEN_REQUESTS_SECONDS = 0.1
#: Longer than Flower's start on a busy machine.
READY_SECONDS = 60.0

PAGE, API = "/partitions", "/api/partitions"
#: Every page. `S5` is a key.
PATHS = (
    PAGE, API, "/partition/1", "/partitions/key?key=S5", "/partitions/computations", "/partitions/computation?name=average+price", "/partitions/workers",
    "/partitions/versions", "/partitions/parked", "/partitions/dead-letters", "/partitions/keys?computation=average+price&prefix=S5", "/partitions/ends", "/partitions/audit",
    "/partitions/history?seconds=3600",
)  # fmt: skip


def measure(bench: Bench) -> list[Row]:
    size = bench.size
    opened, closed, pairs, processor = (Samples() for _ in range(4))
    pages = {path: Samples() for path in PATHS}
    bench.clear()
    bench.run("partitioned_client.py", "fill-keys", "--keys", size.many_keys, PARTITIONS=size.many_partitions)
    with bench.worker("partitioned", PARTITIONS=size.many_partitions) as worker:
        bench.watch(partition_queues(size.many_partitions), [worker])
    for number in range(bench.rounds):
        try:
            spans, seconds = one_round(bench)
        except CandidateFailedError as error:
            for samples in (opened, closed, pairs, processor, *pages.values()):
                samples.failures.append(str(error))
            continue
        opened.values.append(statistics.median(span.rate for span in spans[1::2]))
        closed.values.append(statistics.median(span.rate for span in spans[::2]))
        # Other load on the machine changes slowly, so consecutive spans see the same load.
        pairs.values += [
            2 * between.rate / (before.rate + after.rate)
            for before, between, after in zip(spans[::2], spans[1::2], spans[2::2], strict=False)
        ]
        processor.values.append(
            100 * (statistics.mean(span.flower for span in spans[1::2]) - statistics.mean(span.flower for span in spans[::2]))
        )
        for path, samples in pages.items():
            samples.values.append(1000 * statistics.median(seconds[path]))
        print(
            f"    round {number + 1}  open: {opened.values[-1]:,.6g}, closed: {closed.values[-1]:,.6g} messages/s, "
            f"Flower +{processor.values[-1]:.3g} % of a processor; " + ", ".join(f"{path}: {one.values[-1]:.3g} ms" for path, one in pages.items()),
            flush=True,
        )
    group = f"{size.many_partitions} partitions, {size.many_keys:,} keys, messages flowing"
    answers = [
        Row(
            measure=f"answer of {path}",
            unit="ms",
            ours=samples.median,
            target=Target("at most", 150.0, " ms"),
            note=f"Median of requests every {BETWEEN_REQUESTS_SECONDS:g} s, whole answer; {group}.",
            samples={"ours": samples},
        )
        for path, samples in pages.items()
    ]
    return [
        *answers,
        Row(
            measure="stateful messages/s, one worker, dashboard open",
            unit="messages/s",
            ours=opened.median,
            against="itself, dashboard closed",
            theirs=closed.median,
            own_score=pairs.median,
            target=Target("at least", 0.98, "×"),
            note=f"One run, {size.dashboard_window_seconds:g} s with an open page and {size.dashboard_window_seconds:g} s without one in turn, of each the first {size.dashboard_settling_seconds:g} s not counted; without one: another Flower runs, which nobody has looked at. The score is the median of the rate with the page by the mean of those before and after it. {group}.",
            samples={"open": opened, "closed": closed, "open / closed, of neighbours": pairs},
        ),
        Row(
            measure="processor time of Flower, page open, beyond that of Flower alone",
            unit="% of a processor",
            ours=processor.median,
            note=f"In the same run, by the system's clock of the processes. {group}.",
            samples={"more": processor},
        ),
    ]


class Span(NamedTuple):
    """A few seconds with the page open, or closed."""

    #: Messages/s of the worker.
    rate: float
    #: Seconds of processor time that Flower used per second.
    flower: float


def one_round(bench: Bench) -> tuple[list[Span], dict[str, list[float]]]:
    """The page is closed, open, closed, …; then the seconds of each answer while the remaining messages are processed."""
    size = bench.size
    settings = {"PARTITIONS": size.many_partitions}
    queues = partition_queues(size.many_partitions)
    bench.run("partitioned_client.py", "fill", "--count", size.dashboard_messages, "--keys", size.many_keys, **settings)
    with (
        flower(bench, "open", **settings) as looked_at,
        flower(bench, "closed", **settings) as alone,
        bench.worker("partitioned", **settings) as worker,
        bench.client() as client,
    ):
        full = messages_left(client, queues)
        # The first requests wait for the start of the worker.
        wait_until(lambda: messages_left(client, queues) < 0.97 * full, READY_SECONDS, message="the worker does nothing")
        for path in PATHS:
            fetch(looked_at.base + path)
        spans: list[Span] = []
        while messages_left(client, queues) > full / 4:
            if worker.process.poll() is not None:
                raise CandidateFailedError("the worker exited")
            spans.append(span(bench, looked_at, alone, queues, is_open=len(spans) % 2 == 1))
        seconds: dict[str, list[float]] = {path: [] for path in PATHS}
        while messages_left(client, queues):
            for path, taken in seconds.items():
                begun = time.perf_counter()
                fetch(looked_at.base + path)
                taken.append(time.perf_counter() - begun)
                time.sleep(BETWEEN_REQUESTS_SECONDS)
    if len(spans) < 3 or not seconds[API]:
        raise CandidateFailedError(f"{size.dashboard_messages} messages are too few to time")
    return spans, seconds


@dataclass(frozen=True, slots=True)
class Flower:
    """A running Flower and its address."""

    base: str
    process: subprocess.Popen[bytes]

    def used_seconds(self) -> float:
        """Processor time since its start."""
        ticks = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()[11:13]
        return sum(map(int, ticks)) / os.sysconf("SC_CLK_TCK")


def span(bench: Bench, looked_at: Flower, alone: Flower, queues: list[str], *, is_open: bool) -> Span:
    """Run one of the two Flowers: the one with an open page, or the one without."""
    running, still = (looked_at, alone) if is_open else (alone, looked_at)
    events = listening(running.base + API + "/events") if is_open else contextlib.nullcontext()
    with suspended(still), events, bench.client() as client:
        # A page that opens first gets five minutes of history, and a Flower that was suspended gets the events it missed.
        time.sleep(bench.size.dashboard_settling_seconds)
        before, used, begun = messages_left(client, queues), running.used_seconds(), time.monotonic()
        time.sleep(bench.size.dashboard_window_seconds - bench.size.dashboard_settling_seconds)
        lasted = time.monotonic() - begun
        return Span((before - messages_left(client, queues)) / lasted, (running.used_seconds() - used) / lasted)


@contextmanager
def suspended(flower: Flower) -> Iterator[None]:
    flower.process.send_signal(signal.SIGSTOP)
    try:
        yield
    finally:
        flower.process.send_signal(signal.SIGCONT)


@contextmanager
def flower(bench: Bench, name: str, **settings: object) -> Iterator[Flower]:
    """Start Flower and wait until it answers. `name` is the name of its log."""
    port = free_port()
    base = f"http://127.0.0.1:{port}"
    words = ("partitions", "flower", f"--port={port}", "--logging=warning")
    with bench.celery("partitioned", f"flower-{name}", *words, FLOWER_UNAUTHENTICATED_API="true", **settings) as started:
        process = started.process
        wait_until(lambda: process.poll() is not None or answers(base), READY_SECONDS, message="Flower does not answer")
        yield Flower(base, process)


def answers(base: str) -> bool:
    try:
        fetch(base + "/healthcheck")
    except OSError:
        return False
    return True


def fetch(url: str) -> None:
    """Read the whole answer. An error status raises."""
    with urllib.request.urlopen(url, timeout=120) as reply:
        reply.read()


@contextmanager
def listening(url: str) -> Iterator[None]:
    """Read every event at once, as an open page does."""
    reply = urllib.request.urlopen(url, timeout=120)

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
