"""Shows that partitioning helps: runs the same messages with one key and with many, on 1, 2 and 4 workers.

Messages of one key are processed one after the other, so more workers change nothing. Messages of many keys are spread over the
partitions, so more workers need less time. The states are the same in every run.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import ExitStack
from typing import IO

from rich.console import Console
from rich.table import Table

from celery_partitions.demo.processes import Processes, running, wait_for_workers
from celery_partitions.demo.proof import WAIT_SECONDS, Item, Trail, wait_and_note

MESSAGES = 1_000
MANY_KEYS = 200
#: Sent before the measurement, because workers that have just started are slower.
WARM_UP_MESSAGES = 200
#: Workers added for each row of the table: 1, 2 and 4 in all.
STEPS = (1, 1, 2)
#: Several times the duration of the slowest run (MESSAGES × WAIT_SECONDS and a little).
RUN_SECONDS = 30.0
#: Workers start in a few seconds and share the partitions within one; a loaded machine takes longer.
SHARE_SECONDS = 30.0


def show_speedup(console: Console, environment: Mapping[str, str], output: IO[bytes]) -> bool:
    """Print a table of times. True if the states of each run equal those of a plain loop."""
    table = Table(title=f"{MESSAGES:,} messages that wait {WAIT_SECONDS * 1000:.0f} ms each")
    for heading in ("workers", "one key", "speed-up", f"{MANY_KEYS} keys", "speed-up", "same states"):
        table.add_column(heading, justify="right")
    all_same = True
    first: dict[int, float] = {}
    with ExitStack() as stack, console.status("Measuring with 1, 2 and 4 workers …"):
        workers = 0
        for added in STEPS:
            processes = stack.enter_context(
                running(environment, {"worker": added}, app="celery_partitions.demo.proof", output=output)
            )
            workers += added
            wait_for_workers(processes, workers, SHARE_SECONDS)
            _measure(processes, MANY_KEYS, WARM_UP_MESSAGES)
            cells, same = [str(workers)], True
            for keys in (1, MANY_KEYS):
                seconds, right = _measure(processes, keys, MESSAGES)
                same = same and right
                cells += [f"{seconds:.2f} s", f"{first.setdefault(keys, seconds) / seconds:.1f}×"]
            table.add_row(*cells, "[green]✓[/]" if same else "[red]✗[/]")
            all_same = all_same and same
    console.print(table)
    return all_same


def _measure(processes: Processes, keys: int, messages: int) -> tuple[float, bool]:
    """The seconds from the first send to the last commit, and whether the states equal those of a plain loop."""
    items = [Item(f"key {number % keys}", number) for number in range(messages)]
    expected = _plain_loop(items)
    for key in expected:
        wait_and_note.forget(key)
    started = time.perf_counter()
    wait_and_note.send_many(items)
    processes.wait_until(
        lambda: sum(count for count, _ in _states(expected).values()) >= messages,
        f"{messages} messages with {keys} keys are committed",
        RUN_SECONDS,
    )
    elapsed = time.perf_counter() - started
    return elapsed, _states(expected) == expected


def _plain_loop(items: list[Item]) -> dict[str, tuple[int, int]]:
    """Key → count and checksum, computed without Celery, Redis or partitions."""
    trails: dict[str, Trail] = {}
    for item in items:
        trails.setdefault(item.key, Trail()).note(item)
    return {key: (trail.count, trail.checksum) for key, trail in trails.items()}


def _states(keys: Mapping[str, object]) -> dict[str, tuple[int, int]]:
    """Key → count and checksum, from Redis."""
    return {key: (trail.count, trail.checksum) for key, trail in wait_and_note.states(list(keys)).items() if trail}
