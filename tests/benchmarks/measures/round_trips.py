"""Messages/s if the server is 2 ms away, as in another zone of a cloud."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from tests.benchmarks.bench import ROOT, Bench
from tests.benchmarks.runs import partitioned_drain, plain_drain
from tests.benchmarks.samples import CandidateFailedError, Row, Target, alternate

DELAY_SECONDS = 0.002


def measure(bench: Bench) -> list[Row]:
    size = bench.size

    def partitioned() -> float:
        with delayed(bench) as url:
            return partitioned_drain(bench, size.messages, size.keys, REDIS_URL=url).rate()

    def plain() -> float:
        with delayed(bench) as url:
            return plain_drain(bench, size.delayed_plain_messages, size.keys, REDIS_URL=url).rate()

    taken = alternate(bench.rounds, {"ours": partitioned, "plain Celery": plain})
    ours, theirs = taken["ours"].median, taken["plain Celery"].median
    return [
        Row(
            measure=f"messages/s with {DELAY_SECONDS * 1000:g} ms added to each round trip",
            unit="messages/s",
            ours=ours,
            against="plain Celery",
            theirs=theirs,
            target=Target("at least", 200.0, "×"),
            note=f"Only the workers are behind the proxy. {size.messages:,} queued; "
            f"plain Celery {size.delayed_plain_messages:,}.",
            samples=taken,
        )
    ]


@contextmanager
def delayed(bench: Bench) -> Iterator[str]:
    """The URL of a proxy to the bench's server that delays each round trip."""
    command = [sys.executable, "-m", "tests.benchmarks.proxy", "--to-port", str(bench.port)]
    command += ["--delay-seconds", str(DELAY_SECONDS)]
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
    try:
        port = process.stdout.readline().strip() if process.stdout else ""
        if not port:
            raise CandidateFailedError("the proxy did not start")
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.communicate()
