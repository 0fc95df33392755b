"""Stateful messages/s of one worker, compared with plain Celery, Bytewax and the raw loop."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.benchmarks.bench import OUTPUT, Bench
from tests.benchmarks.runs import checked, partitioned_drain, plain_drain
from tests.benchmarks.samples import CandidateFailedError, Row, Target, alternate

TIMED = "Queued, then started; timed from the first commit to the last. States checked against a plain fold."


def measure(bench: Bench) -> list[Row]:
    size = bench.size

    def partitioned() -> float:
        return partitioned_drain(bench, size.messages, size.keys).rate()

    def plain() -> float:
        return plain_drain(bench, size.plain_messages, size.keys).rate()

    def raw_loop() -> float:
        bench.clear()
        return float(checked(bench.run("raw_loop.py", *workload))["rate"])

    def bytewax(messages: str) -> float:
        bench.clear()
        python = bytewax_python()
        arguments = ("--messages", messages, *workload)
        return float(checked(bench.run("bytewax_flow.py", *arguments, python=str(python)))["rate"])

    workload = ("--count", size.messages, "--keys", size.keys)
    taken = alternate(
        bench.rounds,
        {
            "ours": partitioned,
            "plain Celery": plain,
            "Bytewax, messages from Redis": lambda: bytewax("redis"),
            "Bytewax, messages in memory": lambda: bytewax("memory"),
            "raw loop": raw_loop,
        },
    )
    ours = taken["ours"].median
    notes = {
        "plain Celery": f"Solo worker, {size.plain_messages:,} messages queued.",
        "Bytewax, messages from Redis": "The same messages, from a Redis list; SQLite recovery in memory.",
        "Bytewax, messages in memory": "Already decoded, no Redis at all; SQLite recovery in memory.",
        "raw loop": "LRANGE, decode, update, pickle, one script; no lease, no checks.",
    }
    targets = {"plain Celery": 100.0, "raw loop": 0.6}
    return [
        Row(
            measure=f"stateful messages/s, one worker, {size.keys:,} keys, {size.messages:,} queued",
            unit="messages/s",
            ours=ours,
            against=name,
            theirs=taken[name].median,
            target=Target("at least", targets.get(name, 2.0), "×"),
            note=f"{note} {TIMED}",
            samples=taken,
        )
        for name, note in notes.items()
    ]


def bytewax_python() -> Path:
    """The Python of a venv with Bytewax, which is created on first use: its dependencies are not ours."""
    venv = OUTPUT / "bytewax-venv"
    python = venv / "bin" / "python"
    ready = venv / "ready"
    if not ready.exists():
        packages = ["bytewax==0.21.*", "msgspec", "redis", "hiredis"]
        try:
            subprocess.run([sys.executable, "-m", "venv", str(venv)], check=True)
            subprocess.run([str(python), "-m", "pip", "install", "--quiet", *packages], check=True)
        except subprocess.CalledProcessError as error:
            raise CandidateFailedError(f"Bytewax could not be installed: {error}") from error
        ready.touch()
    return python
