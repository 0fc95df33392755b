"""`partitions top`: the group as it flows, until Ctrl-C; lines of JSON for scripts; one table where nobody looks at a terminal."""

from __future__ import annotations

import os
import sys
import time
from typing import Any

import click
import msgspec
import redis
from rich.console import Console
from rich.live import Live

from celery_partitions.admin.watcher import Watcher
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import refusals
from celery_partitions.cli.screen import Sort, draw

#: A table in a pipe or a file is as wide as it wants.
PIPED_WIDTH = 200


@click.command(short_help="The partitions as they flow, live.")
@click.option(
    "--interval",
    type=click.FloatRange(0.1, 3600),
    default=2.0,
    show_default=True,
    help="Seconds between two looks.",
)
@click.option(
    "--sort",
    type=click.Choice(["backlog", "rate", "oldest", "name"]),
    help="What stands on top; by default the name, or the backlog when there are more rows than lines.",
)
@click.option("--json", "as_json", is_flag=True, help="One line of JSON for each look, for scripts.")
@click.pass_context
@refusals
def top(context: click.Context, interval: float, sort: Sort | None, as_json: bool) -> None:
    """The partitions as they flow: rates, sparklines of the last five minutes, backlog, latency, what waits for an operator.

    Until Ctrl-C. As many columns as the terminal has room for. Where the output is no terminal the table is printed
    once, after one interval. Rates and sparklines are since the command was started.
    """
    watch = Watcher(installation_in(context).group, every_seconds=0)
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
        # Who read has gone; Python must not fail once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_lines(watch: Watcher, interval: float) -> None:
    while True:
        print_line(watch.to_json())
        time.sleep(interval)


def print_line(found: dict[str, Any]) -> None:
    """One JSON document on one line, at once."""
    sys.stdout.write(msgspec.json.encode(found).decode() + "\n")
    sys.stdout.flush()


def _print_once(watch: Watcher, interval: float, sort: Sort | None) -> None:
    watch.look()
    time.sleep(interval)
    console = Console(width=PIPED_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(draw(watch.to_json(), sort=sort, width=PIPED_WIDTH, height=None))


def _show(watch: Watcher, interval: float, sort: Sort | None) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    found, trouble = watch.to_json(), ""
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            width, height = console.size
            live.update(draw(found, sort=sort, width=width, height=height, trouble=trouble), refresh=True)
            time.sleep(interval)
            try:
                found, trouble = watch.to_json(), ""
            except (redis.RedisError, OSError) as error:  # shown, and asked again
                trouble = f"Redis: {error}"
