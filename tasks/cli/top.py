"""`partitions top`: a live view of the group; JSON lines for scripts; one table if the output is not a terminal."""

from __future__ import annotations

import os
import sys
import time

import click
import redis
from rich.console import Console
from rich.live import Live

from celery_partitions.admin.history import GAP_SECONDS
from celery_partitions.admin.watcher import Watcher
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_line, refusals
from celery_partitions.cli.screen import Sort, draw
from celery_partitions.producer.pipelines import ends_with_processes

#: Width of the table when the output is a pipe or a file.
PIPED_WIDTH = 200


@click.command(short_help="Watch the partitions live.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between updates.",
)
@click.option(
    "--sort",
    type=click.Choice(["backlog", "rate", "oldest", "name"]),
    help="Sort order. Default: name, or backlog if not all rows fit the screen.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per update, for scripts.")
@click.pass_context
@refusals
def top(context: click.Context, interval: float, sort: Sort | None, as_json: bool) -> None:
    """Watch the partitions live: what needs you, rates, sparklines of the last five minutes, backlog, latency, parked keys, dead letters.

    Stop it with Ctrl-C. A narrow terminal shows fewer columns. If the output is not a terminal, the table is printed once,
    after one interval. Rates and sparklines begin with what workers wrote before the command started.
    """
    watch = Watcher(
        installation_in(context).group, ends=ends_with_processes, every_seconds=0, gap_seconds=max(GAP_SECONDS, 3 * interval)
    )
    try:
        if as_json:
            _print_lines(watch, interval)
        elif sys.stdout.isatty():
            _show(watch, interval, sort)
        else:
            _print_once(watch, interval, sort)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # The reader has gone; Python must not fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_lines(watch: Watcher, interval: float) -> None:
    while True:
        print_line(watch.with_attention())
        time.sleep(interval)


def _print_once(watch: Watcher, interval: float, sort: Sort | None) -> None:
    watch.look()
    time.sleep(interval)
    console = Console(width=PIPED_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(draw(watch.with_attention(), sort=sort, width=PIPED_WIDTH, height=None))


def _show(watch: Watcher, interval: float, sort: Sort | None) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    found, trouble = watch.with_attention(), ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            width, height = console.size
            live.update(draw(found, sort=sort, width=width, height=height, trouble=trouble), refresh=True)
            time.sleep(interval)
            try:
                found, trouble = watch.with_attention(), ""
            except (redis.RedisError, OSError) as error:  # shown; the next update tries again
                trouble = f"Redis: {error}"
