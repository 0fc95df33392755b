"""The base of every measure: one server, child processes, and watching queues until they are empty."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from tests.benchmarks.samples import CandidateFailedError

ROOT = Path(__file__).resolve().parents[2]
CANDIDATES = Path(__file__).resolve().parent / "candidates"
OUTPUT = ROOT / ".bench"

#: The interval between two reads of the queues. Short compared with a run of seconds, and long enough not to load the server.
LOOK_SECONDS = 0.01
#: A worker without progress for this long has failed. Longer than a worker's start on a busy machine.
STALLED_SECONDS = 60.0
#: How long a worker may take to finish its batch after SIGTERM, before SIGKILL.
STOP_SECONDS = 15.0


@dataclass(frozen=True, slots=True)
class Size:
    """The number of messages in each measure: `FULL` for figures to publish, `SMALL` to check that everything runs."""

    messages: int = 400_000
    plain_messages: int = 5_000
    keys: int = 1_000
    enqueued: int = 200_000
    plain_enqueued: int = 5_000
    latency_seconds: float = 10.0
    many_keys: int = 1_000_000
    many_partitions: int = 256
    depth: int = 1_000_000
    delayed_plain_messages: int = 300
    cached_keys: int = 100_000
    #: Timers that are due at once.
    due: int = 100_000
    #: Messages of 2 ms each, to show that partitioning helps.
    slow_messages: int = 2_000
    #: Messages whose calls wait: 2 ms or 100 ms in the event loop; 20 ms in threads; and in plain Celery.
    waiting_messages: int = 60_000
    waiting_keys: int = 10_000
    threaded_messages: int = 10_000
    plain_waiting_messages: int = 5_000
    calls_at_once: int = 1_000
    #: How long rate limits are counted.
    limits_seconds: float = 180.0
    #: Keys of a group that is resized while messages come.
    resized_keys: int = 200_000
    #: Enough messages that the dashboard can be opened and closed several times while they are processed.
    dashboard_messages: int = 2_000_000
    #: As long as one refresh of its page, after settling. Not longer, so that the machine's load is the same with the page open and closed.
    dashboard_window_seconds: float = 3.0
    dashboard_settling_seconds: float = 1.0


FULL = Size()
SMALL = Size(
    messages=20_000,
    plain_messages=300,
    keys=100,
    enqueued=5_000,
    plain_enqueued=300,
    latency_seconds=1.0,
    many_keys=10_000,
    many_partitions=32,
    depth=100_000,
    delayed_plain_messages=50,
    cached_keys=5_000,
    resized_keys=5_000,
    due=3_000,
    slow_messages=200,
    waiting_messages=3_000,
    waiting_keys=500,
    threaded_messages=500,
    plain_waiting_messages=300,
    calls_at_once=100,
    limits_seconds=25.0,
    dashboard_messages=500_000,
    dashboard_window_seconds=0.3,
    dashboard_settling_seconds=0.1,
)


@dataclass(frozen=True, slots=True)
class Drain:
    """The length of a queue over time while a worker empties it: (seconds on the monotonic clock, messages left)."""

    looks: tuple[tuple[float, int], ...]

    def rate(self, above: int | None = None, below: int = 0) -> float:
        """Messages/s between the first read with at most `above` messages left and the one with `below` left.

        Without `above`: from the first read after the first commit, so that the start of the process does not count.
        """
        full = self.looks[0][1]
        limit = full - 1 if above is None else above
        begun = next(look for look in self.looks if look[1] <= limit)
        ended = next(look for look in self.looks if look[1] <= below)
        if begun[1] == ended[1]:
            raise CandidateFailedError(f"{full} messages are too few to time: gone within {LOOK_SECONDS} s")
        return (begun[1] - ended[1]) / (ended[0] - begun[0])

    @property
    def ended_at(self) -> float:
        """When the queue was first found empty, on the monotonic clock."""
        return self.looks[-1][0]


@dataclass(frozen=True, slots=True)
class Worker:
    """A running Celery worker and the file with its output."""

    process: subprocess.Popen[bytes]
    log: Path


@dataclass(frozen=True, slots=True)
class Bench:
    """The server's port, the size of the run, and the operations that measures use."""

    port: int
    rounds: int
    size: Size

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> redis.Redis:
        """A client for reading; replies are bytes."""
        return redis.Redis(port=self.port)

    def clear(self) -> None:
        """Empty the server before a candidate starts."""
        with self.client() as client:
            client.flushall()

    def environment(self, **settings: object) -> dict[str, str]:
        """The environment of a child process: our server, the project and the candidates on the path, and `settings`."""
        return {
            **os.environ,
            "REDIS_URL": self.redis_url,
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(CANDIDATES)]),
            **{name: str(value) for name, value in settings.items()},
        }

    def run(self, script: str, *arguments: object, python: str = sys.executable, **settings: object) -> Any:
        """Run a program of `candidates/` to its end and return the JSON of its last line of output."""
        command = [python, str(CANDIDATES / script), *map(str, arguments)]
        return json.loads(self._output(command, settings).strip().splitlines()[-1])

    def partition_status(self, **settings: object) -> list[dict[str, Any]]:
        """The output of `celery partitions status --json`."""
        status: list[dict[str, Any]] = self.run_command("status", "--json", **settings)
        return status

    def run_command(self, *words: str, **settings: object) -> Any:
        """The JSON of a command of `celery partitions`."""
        return json.loads(self._output([sys.executable, "-m", "celery", "-A", "partitioned", "partitions", *words], settings))

    def _output(self, command: Sequence[str], settings: dict[str, object]) -> str:
        done = subprocess.run(
            command, env=self.environment(**settings), cwd=ROOT, capture_output=True, text=True, check=False
        )
        if done.returncode != 0 or not done.stdout.strip():
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise CandidateFailedError(f"{' '.join(command[1:4])} exited with {done.returncode}: {last}")
        return done.stdout

    @contextmanager
    def worker(self, module: str, number: int = 1, /, **settings: object) -> Iterator[Worker]:
        """Start `celery -A module worker`, and stop it at the end: SIGTERM, then SIGKILL."""
        arguments = ("worker", "--pool", "solo", "--loglevel", "WARNING", "--hostname", f"bench{number}@%h")
        with self.celery(module, f"{module}-{number}", *arguments, **settings) as worker:
            yield worker

    @contextmanager
    def celery(self, module: str, name: str, *arguments: str, **settings: object) -> Iterator[Worker]:
        """Start a process of `celery -A module …` and stop it at the end. `name` is the name of its log."""
        log = OUTPUT / "logs" / f"{name}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "celery", "-A", module, *arguments]
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, env=self.environment(**settings), cwd=ROOT, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            yield Worker(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def watch(self, queues: Sequence[str], workers: Sequence[Worker]) -> Drain:
        """Read the queues until they are empty. A message is left while it is in a queue or in kombu's `unacked` hash."""
        return self.watch_until_zero(lambda client: messages_left(client, queues), workers)

    def watch_until_zero(self, count: Callable[[redis.Redis], int], workers: Sequence[Worker]) -> Drain:
        """Call `count` until it returns 0. Fails if a worker dies or there is no progress for a minute."""
        looks: list[tuple[float, int]] = []
        moved_at = time.monotonic()
        with self.client() as client:
            while True:
                left, now = count(client), time.monotonic()
                if looks and left != looks[-1][1]:
                    moved_at = now
                looks.append((now, left))
                if left == 0:
                    return Drain(tuple(looks))
                for worker in workers:
                    if worker.process.poll() is not None:
                        raise CandidateFailedError(f"a worker exited: {last_line(worker.log)}")
                if now - moved_at > STALLED_SECONDS:
                    raise CandidateFailedError(f"{left} messages left, stalled: {last_line(workers[0].log)}")
                time.sleep(LOOK_SECONDS)


def messages_left(client: redis.Redis, queues: Sequence[str]) -> int:
    """Messages in the queues and in kombu's `unacked` hash, in one round trip."""
    pipeline = client.pipeline(transaction=False)
    for queue in queues:
        pipeline.llen(queue)
    pipeline.hlen("unacked")
    return sum(pipeline.execute())


def messages_processed(client: redis.Redis, partitions: int) -> int:
    """How many messages the partitions have processed."""
    with client.pipeline(transaction=False) as pipe:
        for number in range(partitions):
            pipe.hget(f"{{partition.{number}}}:meta", "processed")
        return sum(int(one or 0) for one in pipe.execute())


def partition_queues(partitions: int) -> list[str]:
    """Every queue of the group, including the ingress."""
    return ["partition", *(f"partition.{number}" for number in range(partitions))]


def last_line(log: Path) -> str:
    """The last line of a log, for an error message."""
    lines = log.read_text(errors="replace").strip().splitlines()
    return f"{lines[-1] if lines else 'no output'} ({log})"
