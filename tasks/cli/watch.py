"""`partitions watch`: follow one key."""

from __future__ import annotations

import os
import sys
import time

import click
import redis

from celery_partitions.admin.numbers import utc
from celery_partitions.admin.state_json import text_of
from celery_partitions.admin.timeline import KeyWatch, Row
from celery_partitions.cli.context import base64_option, installation_in, key_argument, typed_key
from celery_partitions.cli.output import print_line, refusals
from celery_partitions.model.escaping import escape


@click.command(short_help="Follow one key: what happens to it.")
@key_argument
@base64_option
@click.option("--interval", type=click.FloatRange(0.1, 3600), default=1.0, show_default=True, help="Seconds between looks.")
@click.option("--once", is_flag=True, help="Print what is known now, and end.")
@click.option("--json", "as_json", is_flag=True, help="Print one line of JSON for each change, for scripts.")
@refusals
def watch(context: click.Context, key: str, in_base64: bool, interval: float, once: bool, as_json: bool) -> None:
    """Follow KEY: its messages applied, failed and parked, what they sent, its states before and after, and what operators did.

    Stop it with Ctrl-C. Times are UTC. With PARTITIONS_TIMELINE_BYTES workers write what each commit changed, and you also see the past. Without
    it, you see what two looks find different: a state that changed, a call in flight, a key that waits. The cost for workers is nothing.
    """
    follow = installation_in(context).watch_key(typed_key(key, in_base64))
    try:
        while True:
            for row in _look(follow):
                _print(row, as_json)
            if once:
                return
            time.sleep(interval)
    except KeyboardInterrupt:
        pass
    except BrokenPipeError:
        # The reader has gone; Python must not fail again when it flushes standard output at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _look(follow: KeyWatch) -> list[Row]:
    try:
        return follow.look()
    except (redis.RedisError, OSError) as error:
        if not follow.has_looked:
            raise
        click.echo(escape(f"Redis: {error}"), err=True)
        return []  # the next look tells what this one missed


def _print(row: Row, as_json: bool) -> None:
    if as_json:
        print_line(row)
        return
    at = utc(row.at)
    where = "" if row.commit_number is None else f" (commit {row.commit_number:,})"
    lines = [escape(one) for one in row.what]
    for state in row.states:
        if state.note:
            lines.append(f"{escape(state.computation)}: {escape(state.note)}")
        for field in state.fields:
            name = f"{state.computation}.{field.field}" if field.field else state.computation
            lines.append(f"{escape(name)}: {escape(text_of(field.before))} → {escape(text_of(field.after))}")
    who = f"  [{escape(row.who)}{where}]" if row.who else ""
    for number, line in enumerate(lines or ["changed"]):
        click.echo(f"{at if number == 0 else ' ' * len(at)}  {line}{who if number == 0 else ''}")
    sys.stdout.flush()
