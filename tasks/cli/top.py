"""`partitions top`: a live view of the group; JSON lines for scripts; one table if the output is not a terminal."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from itertools import islice
from typing import Any

import click
import redis
from rich.console import Console
from rich.live import Live

from celery_partitions.admin.computations import MAX_PARKED, look_at_computations
from celery_partitions.admin.documents import json_parked
from celery_partitions.admin.history import GAP_SECONDS
from celery_partitions.admin.numbers import span
from celery_partitions.admin.watcher import Watcher
from celery_partitions.cli.columns import By, Sort
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_line, refusals
from celery_partitions.cli.screen import draw, rows_of
from celery_partitions.cli.view import Keyboard, View
from celery_partitions.model.computation import Computation
from celery_partitions.model.effects import ParkedKey
from celery_partitions.producer.pipelines import ends_with_processes
from celery_partitions.store.names import INGRESS

#: Width of the table when the output is a pipe or a file.
PIPED_WIDTH = 200
#: Parked keys of a row that is open.
MAX_SHOWN = 50


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
@click.option("--by", type=click.Choice(["partition", "computation"]), default="partition", show_default=True, help="What a row is.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON per update, for scripts.")
@refusals
def top(context: click.Context, interval: float, sort: Sort | None, by: By, as_json: bool) -> None:
    """Watch the partitions live: what needs you, rates, sparklines of the last five minutes, backlog, latency, parked keys, dead letters.

    Stop it with q or Ctrl-C. Keys: s sorts by the next column, c shows computations, the arrows choose a row, Enter opens it. With --by
    computation, `backlog` sorts by parked keys, and `oldest` by latency. A narrow terminal shows fewer columns. If the output is not a terminal, the table is printed once,
    after one interval. Rates and sparklines begin with what workers wrote before the command started.
    """
    installation = installation_in(context)
    watch = Watcher(
        installation.group, ends=ends_with_processes, every_seconds=0, gap_seconds=max(GAP_SECONDS, 3 * interval)
    )
    look, view = Look(watch, installation.computations), View(by, sort)
    try:
        if as_json:
            while True:
                print_line(look(view))
                time.sleep(interval)
        elif sys.stdout.isatty():
            _show(look, interval, view)
        else:
            _print_once(look, interval, view)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # The reader has gone; Python must not fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Look:
    """Reads what a view needs: `look(view)`. `computations`: of this process."""

    def __init__(self, watch: Watcher, computations: Mapping[str, Computation]) -> None:
        self.watch, self.computations = watch, computations

    def __call__(self, view: View) -> dict[str, Any]:
        found = self.watch.with_attention()
        if view.by == "computation":
            found["computations"] = look_at_computations(self.watch, self.computations)["computations"]
        if view.is_open and view.chosen is not None:
            found["opened"] = self._parked(found, view)
        return found

    def _parked(self, found: dict[str, Any], view: View) -> list[dict[str, Any]]:
        """The parked keys of the chosen row."""
        keys = self.watch.group.parked_keys
        if view.by == "computation":
            every: Iterator[ParkedKey] = (one for one in islice(keys.all(), MAX_PARKED) if one.task == view.chosen)
        else:
            partition = next((row["partition"] for row in found["partitions"] if row["queue"] == view.chosen), INGRESS)
            every = keys.of_partition("ingress" if partition == INGRESS else int(partition))
        return [json_parked(one) for one in islice(every, MAX_SHOWN)]


def _print_once(look: Look, interval: float, view: View) -> None:
    look.watch.look()
    time.sleep(interval)
    console = Console(width=PIPED_WIDTH, markup=False, emoji=False, highlight=False)
    console.print(draw(look(view), view, width=PIPED_WIDTH, height=None))


def _show(look: Look, interval: float, view: View) -> None:
    console = Console(markup=False, emoji=False, highlight=False)
    found, trouble = look(view), ""
    with Keyboard() as keyboard, Live(console=console, screen=True, auto_refresh=False) as live:
        seen, due, shown = time.monotonic(), time.monotonic() + interval, view
        while True:
            width, height = console.size
            live.update(draw(found, view, width=width, height=height, trouble=trouble, has_keys=keyboard.is_there), refresh=True)
            key = keyboard.key(max(0.0, due - time.monotonic()))
            if key is not None:
                names = [row[view.layout.name] for row in rows_of(found, view, height)]
                pressed = view.press(key, names)
                if pressed is None:
                    return
                if (pressed.by, pressed.is_open) == (view.by, view.is_open) and not pressed.is_open:
                    view = pressed
                    continue
                view = pressed
            try:
                found, trouble, shown = look(view), "", view
                seen, due = time.monotonic(), time.monotonic() + interval
            except (redis.RedisError, OSError) as error:  # shown; the next update tries again
                view = shown  # what was read is not what another view needs
                trouble, due = f"these numbers are {span(time.monotonic() - seen)} old; Redis: {error}", time.monotonic() + interval
