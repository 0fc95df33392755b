"""Latency at 300 messages/s, from the sending call to the effect.

Plain Celery: the task itself records when it has run. Ours: a computation cannot know when its effect is committed, so
this process watches the queues from outside; a message leaves its queue only in the commit that holds its effects. The
queues are read about every 0.2 ms over a plain socket. A message counts as committed at the end of the first read
without it, so the delay of watching is added to our figure, not to Celery's. The queues are watched in the same way
while plain Celery runs, so that both have the same extra load.
"""

from __future__ import annotations

import json
import socket
import statistics
import subprocess
import sys
import time
import zlib
from collections import defaultdict
from collections.abc import Sequence
from contextlib import closing

from tests.benchmarks.bench import CANDIDATES, OUTPUT, ROOT, Bench, partition_queues
from tests.benchmarks.runs import PARTITIONS
from tests.benchmarks.samples import CandidateFailedError, Row, Samples, Target, alternate

RATE = 300.0
#: The first messages run cold code and open the first connection. They are excluded from both figures.
WARM_UP_SECONDS = 0.5
#: The interval between two reads. Short compared with the measured latency.
PAUSE_SECONDS = 0.0001
#: How long to wait for the last commit after the last message was sent.
FINISH_SECONDS = 10.0

#: If the wait grows by this factor within a run, the queue is growing.
FALLS_BEHIND = 3.0

#: (start of the read, its end, length of each queue)
Looks = list[tuple[float, float, tuple[int, ...]]]
#: (symbol, time before sending, time after)
Sent = list[tuple[str, float, float]]


def measure(bench: Bench) -> list[Row]:
    count = int(RATE * (bench.size.latency_seconds + WARM_UP_SECONDS))
    pairs: dict[str, list[tuple[float, float]]] = {"ours": [], "plain Celery": []}
    behind: set[str] = set()

    def partitioned() -> float:
        bench.clear()
        with bench.worker("partitioned", PARTITIONS=PARTITIONS) as worker:
            bench.run("partitioned_client.py", "fill", "--count", 1, "--keys", 1, PARTITIONS=PARTITIONS)
            bench.watch(partition_queues(PARTITIONS), [worker])
            queues = [f"partition.{number}" for number in range(PARTITIONS)]
            sent, looks = send_and_look(bench, "partitioned_client.py", count, queues)
        return kept("ours", committed(sent, looks))

    def plain() -> float:
        bench.clear()
        effects = OUTPUT / "effects.txt"
        effects.unlink(missing_ok=True)
        with bench.worker("plain", EFFECTS_FILE=effects) as worker:
            bench.run("plain_client.py", "fill", "--count", 1, "--keys", 1)
            bench.watch(["celery"], [worker])
            sent, _ = send_and_look(bench, "plain_client.py", count, ["celery"] * PARTITIONS)
        ran = [float(line) for line in effects.read_text().split()][1:]
        if len(ran) != count:
            raise CandidateFailedError(f"{count} messages sent, {len(ran)} ran")
        return kept("plain Celery", [at - before for at, (_, before, _) in zip(ran, sent, strict=True)])

    def kept(name: str, seconds: list[float]) -> float:
        """Keep both percentiles. The p99 is shown in the output line of the round."""
        warm = seconds[int(RATE * WARM_UP_SECONDS) :]
        if falls_behind(warm):
            behind.add(name)
        cuts = statistics.quantiles(warm, n=100, method="inclusive")
        pairs[name].append((cuts[49] * 1000, cuts[98] * 1000))
        return pairs[name][-1][1]

    taken = alternate(bench.rounds, {"ours": partitioned, "plain Celery": plain})
    rows = []
    note = "Ours: sent → committed, seen from outside. Theirs: sent → task ran, noted by the task."
    if behind:
        names = ", ".join(sorted(behind))
        note += f" Fell behind in some round: {names}. That figure is a growing queue, not a latency."
    for position, name in enumerate(("p50", "p99")):
        samples = {
            who: Samples([pair[position] for pair in pairs[who]], taken[who].failures) for who in pairs
        }
        ours, theirs = samples["ours"].median, samples["plain Celery"].median
        rows.append(
            Row(
                measure=f"latency at {RATE:g}/s, {name}",
                unit="ms",
                ours=ours,
                against="plain Celery",
                theirs=theirs,
                target=Target("at most", 1.0, "×"),
                note=note,
                samples=samples,
            )
        )
    return rows


def falls_behind(seconds: Sequence[float]) -> bool:
    """Whether the last quarter of the messages waited far longer than the first: more arrived than could be processed."""
    quarter = len(seconds) // 4
    return statistics.median(seconds[-quarter:]) > FALLS_BEHIND * statistics.median(seconds[:quarter])


def send_and_look(bench: Bench, script: str, count: int, queues: Sequence[str]) -> tuple[Sent, Looks]:
    """Let a producer send at the given rate in its own process, and read the queues at the same time."""
    command = [sys.executable, str(CANDIDATES / script), "pace", "--count", str(count)]
    command += ["--keys", str(bench.size.keys), "--rate", str(RATE)]
    looks: Looks = []
    with (
        (OUTPUT / "sent.json").open("w+") as output,
        closing(socket.create_connection(("127.0.0.1", bench.port))) as connection,
    ):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        asked = b"".join(f"LLEN {queue}\r\n".encode() for queue in queues)
        environment = bench.environment(PARTITIONS=PARTITIONS)
        producer = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=output)
        ended_at = 0.0
        while True:
            begun = time.monotonic()
            lengths = look(connection, asked, len(queues))
            looks.append((begun, time.monotonic(), lengths))
            if not ended_at and producer.poll() is not None:
                ended_at = time.monotonic()
            if ended_at and (not any(lengths) or time.monotonic() > ended_at + FINISH_SECONDS):
                break
            time.sleep(PAUSE_SECONDS)
        output.seek(0)
        text = output.read()
    if producer.returncode != 0 or not text:
        raise CandidateFailedError(f"{script} exited with {producer.returncode}")
    return [tuple(entry) for entry in json.loads(text)], looks


def look(connection: socket.socket, asked: bytes, replies: int) -> tuple[int, ...]:
    """The lengths, read with the inline protocol: each reply is a line `:123`."""
    connection.sendall(asked)
    answer = b""
    while answer.count(b"\n") < replies:
        answer += connection.recv(4096)
    return tuple(int(line[1:]) for line in answer.split())


def committed(sent: Sent, looks: Looks) -> list[float]:
    """The seconds from sending to commit of each message, in the order of sending.

    The number of committed messages is the number sent before a read started, minus the number that the read found. A
    message that arrived in between makes it too low for one read, never too high, so no message counts too early.
    """
    of_queue: dict[int, list[int]] = defaultdict(list)
    for number, (symbol, _, _) in enumerate(sent):
        of_queue[zlib.crc32(symbol.encode()) % PARTITIONS].append(number)
    seconds = [float("nan")] * len(sent)
    for queue, numbers in of_queue.items():
        pushed = done = 0
        for begun, ended, lengths in looks:
            while pushed < len(numbers) and sent[numbers[pushed]][2] <= begun:
                pushed += 1
            while done < pushed - lengths[queue]:
                number = numbers[done]
                seconds[number] = ended - sent[number][1]
                done += 1
        if done < len(numbers):
            raise CandidateFailedError(f"partition.{queue}: {len(numbers) - done} messages not committed")
    return seconds
