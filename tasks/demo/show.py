"""The demo: sends real prices through partitions on several workers, checks the states, and shows why partitions help.

Runs in a process whose environment names the server (`celery_partitions.demo.__main__` starts it). Exit code 0: all states are right.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from typing import IO

import redis
from rich.console import Console
from rich.table import Table

from celery_partitions import PartitionError, partition_of
from celery_partitions.admin.status import PartitionStatus
from celery_partitions.demo.prices import daily_prices
from celery_partitions.demo.processes import (
    ROOT,
    DemoError,
    Processes,
    flower_answers,
    read_partitions,
    running,
    wait_for_workers,
)
from celery_partitions.demo.speedup import show_speedup
from celery_partitions.demo.stocks import Stock, update_stock
from celery_partitions.testing.lifeline import leave_on_signals

WORKERS = 3
LOG = ROOT / ".dev" / "demo.log"
#: Processes start in a few seconds; a loaded machine takes longer.
START_SECONDS = 40.0
#: The prices take well under a second.
PRICES_SECONDS = 30.0
#: The three commands to try after the demo.
NEXT = """
What to try next:
  make dev       keep a server, three workers and the dashboard running
  make test      run all tests
  make bench     measure it on this machine"""


def main() -> int:
    """Run the demo and print results and errors. Returns the exit code."""
    leave_on_signals()
    console = Console()
    environment = dict(os.environ)
    LOG.parent.mkdir(exist_ok=True)
    with LOG.open("wb") as output:
        try:
            same_prices = show_prices(console, environment, output)
            same_states = show_speedup(console, environment, output)
        except (DemoError, PartitionError, redis.RedisError) as error:
            console.print(f"[red]The demo stopped:[/] {error}\nOutput of the processes: {LOG}", highlight=False)
            return 1
    if same_prices and same_states:
        console.print("[green]All states equal those of a plain Python loop over the same messages.[/]")
        console.print(NEXT, highlight=False)
        return 0
    console.print(f"[red]Some states differ: see ✗ above.[/] Output of the processes: {LOG}", highlight=False)
    return 1


def show_prices(console: Console, environment: Mapping[str, str], output: IO[bytes]) -> bool:
    """Send all prices through the workers and print each stock's state. True if all equal those of a plain loop."""
    prices = list(daily_prices())
    flower = f"http://127.0.0.1:{environment['PORT']}"
    with running(environment, {"web": 1, "worker": WORKERS}, app="celery_partitions.demo.stocks", output=output) as processes:
        with console.status(f"Starting {WORKERS} workers and Flower …"):
            before = wait_for_workers(processes, WORKERS, START_SECONDS)
            processes.wait_until(lambda: flower_answers(flower), f"Flower answers at {flower}", START_SECONDS)
        sent = update_stock.send_many(prices, progress=True)
        with console.status("Waiting for the workers …"):
            after = _wait_for_prices(processes, before, sent)
    return _print_prices(console, prices, after, before)


def _wait_for_prices(processes: Processes, before: list[PartitionStatus], sent: int) -> list[PartitionStatus]:
    """Wait until all messages are processed and the queues are empty. Returns the partitions."""
    seen: list[PartitionStatus] = []

    def all_processed() -> bool:
        seen[:] = read_partitions()
        return _processed(seen) - _processed(before) >= sent and not any(row.length for row in seen)

    processes.wait_until(all_processed, f"{sent:,} prices are processed", PRICES_SECONDS)
    return seen


def _processed(partitions: list[PartitionStatus]) -> int:
    return sum(partition.processed for partition in partitions)


def _print_prices(
    console: Console, prices: list[Stock], partitions: list[PartitionStatus], before: list[PartitionStatus]
) -> bool:
    """Print the table of stocks and the counts. True if everything is correct."""
    expected = {stock.symbol: stock.price for stock in prices}
    table = Table(title=f"{len(prices):,} daily prices, {WORKERS} workers, {len(partitions)} partitions")
    for heading in ("stock", "partition", "worker", "state", "plain loop", ""):
        table.add_column(heading)
    all_same = True
    for symbol, price in expected.items():
        partition = partitions[partition_of(symbol, len(partitions))]
        state = update_stock.state(symbol)
        found = None if state is None else state.price
        same = found == price
        all_same = all_same and same
        mark = "[green]✓[/]" if same else "[red]✗[/]"
        table.add_row(symbol, partition.queue, partition.owner, f"{found}", f"{price}", mark)
    console.print(table)
    processed = _processed(partitions) - _processed(before)
    dead = sum(row.dead for row in partitions) - sum(row.dead for row in before)
    console.print(f"Sent {len(prices):,}, processed {processed:,}, dead letters {dead}", highlight=False)
    return all_same and processed == len(prices) and dead == 0


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
