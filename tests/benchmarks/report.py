"""The table as Markdown for people and as JSON for programs."""

from __future__ import annotations

import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path

import redis

from tests.benchmarks.bench import OUTPUT, ROOT, Bench
from tests.benchmarks.plot import chart
from tests.benchmarks.samples import Row


@dataclass(frozen=True, slots=True, kw_only=True)
class Circumstances:
    """Where and when the run took place. Figures without this are meaningless."""

    date: str
    commit: str
    processor: str
    processors: int
    load_average_before: float
    #: The median of one PING and its reply. The savings of batching depend on it.
    round_trip_microseconds: float
    python: str
    celery: str
    server: str
    rounds: int
    small: bool


def circumstances(bench: Bench, *, small: bool) -> Circumstances:
    """The circumstances of this run, read before it starts."""
    with bench.client() as client:
        server = client.info("server")
        round_trips = sorted(round_trip_seconds(client) for _ in range(1000))
    name, release = "redis", server["redis_version"]
    if "valkey_version" in server:
        name, release = "valkey", server["valkey_version"]
    return Circumstances(
        date=time.strftime("%Y-%m-%d %H:%M %Z"),
        commit=commit(),
        processor=processor(),
        processors=os.cpu_count() or 1,
        load_average_before=round(os.getloadavg()[0], 2),
        round_trip_microseconds=round(round_trips[500] * 1e6, 1),
        python=platform.python_version(),
        celery=version("celery"),
        server=f"{name} {release}, persistence off, same machine",
        rounds=bench.rounds,
        small=small,
    )


def round_trip_seconds(client: redis.Redis) -> float:
    """The duration of one round trip of a Python process on this machine."""
    begun = time.perf_counter()
    client.ping()
    return time.perf_counter() - begun


def write(rows: Sequence[Row], begun: Circumstances) -> Circumstances:
    """Write results.md, results.json and results.svg. Returns the circumstances they contain."""
    # If the code changed during the run, it belongs to no commit. Report that instead of the commit at the start.
    now = commit()
    where = (
        begun if now == begun.commit else replace(begun, commit=f"{begun.commit}, changed to {now} meanwhile")
    )
    OUTPUT.mkdir(exist_ok=True)
    results = {"circumstances": asdict(where), "rows": [as_json(row) for row in rows]}
    text = json.dumps(results, indent=2, ensure_ascii=False, allow_nan=False)
    (OUTPUT / "results.json").write_text(text + "\n")
    (OUTPUT / "results.md").write_text(markdown(rows, where))
    (OUTPUT / "results.svg").write_text(chart(rows, f"{where.date}, {where.processor}"))
    return where


def markdown(rows: Sequence[Row], where: Circumstances) -> str:
    """The table, the circumstances, how each figure was measured, and what failed."""
    lines = ["# Results", ""]
    lines += [f"- {name.replace('_', ' ')}: {value}" for name, value in asdict(where).items()]
    if where.small:
        lines += ["", "**A smoke run: too small to quote.**"]
    lines += ["", "| measure | ours | against | theirs | score | to reach | reached |"]
    lines += ["|---|---:|---|---:|---:|---|---|"]
    for row in rows:
        target, unit = (str(row.target), row.target.unit) if row.target else ("reported", "×")
        reached = {True: "yes", False: "**no**", None: ""}[row.reached]
        cells = [row.measure, figure(row.ours, row.unit), row.against, figure(row.theirs, row.unit)]
        score = "–" if math.isnan(row.score) else f"{row.score:,.2f}{unit}"
        lines.append("| " + " | ".join([*cells, score, target, reached]) + " |")
    lines += ["", "Medians over the rounds. How each was taken:", ""]
    lines += [f"- {row.measure}{f', {row.against}' if row.against else ''}: {row.note}" for row in rows]
    # Rows of one measure share their samples, and a failure is the same in each round: report it once.
    failures = {
        (name, failure): f"- {row.measure}, {name}: {failure}"
        for row in rows
        for name, samples in row.samples.items()
        for failure in samples.failures
    }
    if failures:
        lines += ["", "## Failed", "", *failures.values()]
    return "\n".join(lines) + "\n"


def figure(value: float, unit: str) -> str:
    """A number with few digits."""
    if math.isnan(value):
        return "–"
    digits = 0 if value >= 100 else 2
    return f"{value:,.{digits}f} {unit}"


def as_json(row: Row) -> dict[str, object]:
    """A row with its samples. Missing values are null."""
    return {
        "measure": row.measure,
        "unit": row.unit,
        "ours": number(row.ours),
        "against": row.against,
        "theirs": number(row.theirs),
        "score": number(row.score),
        "target": str(row.target) if row.target else None,
        "reached": row.reached,
        "note": row.note,
        "samples": {name: asdict(samples) for name, samples in row.samples.items()},
    }


def number(value: float) -> float | None:
    return None if math.isnan(value) else value


def commit() -> str:
    """The commit that was measured, marked if there are uncommitted changes."""
    command = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip() or "unknown"


def processor() -> str:
    """The processor's name as Linux reports it."""
    information = Path("/proc/cpuinfo")
    if information.exists():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
