"""`partitions resize`: another number of partitions while everything runs."""

from __future__ import annotations

import time
import uuid
from dataclasses import asdict

import click

from celery_partitions.admin.resize import Progress, Resize, describe, read_progress
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import print_done, prints_facts
from celery_partitions.runtime.group import Group
from celery_partitions.store.topology import read_topology

#: How often the command looks while it waits.
#: There is no event to wait for: each partition moves its keys and passes its messages on by itself, so only a look at all of them shows the end.
LOOK_SECONDS = 0.2


@click.command(short_help="Give the group another number of partitions while everything runs.")
@click.argument("partitions", type=int, required=False)
@click.option("--status", is_flag=True, help="Show how far a resize is.")
@click.option("--abort", is_flag=True, help="Go back to the number before. Keys that have moved move back. On several servers: only a resize to more partitions, while keys move.")
@click.option("--finish", is_flag=True, help="End a resize whose keys have moved: no producer sends for the former number any more.")
@click.option("--wait", type=click.FloatRange(min=0), default=60.0, show_default=True, metavar="SECONDS", help="Wait for the keys to move at most this long; 0: do not wait.")
@yes_option
@prints_facts
def resize(
    context: click.Context, partitions: int | None, status: bool, abort: bool, finish: bool, wait: float, yes: bool, as_json: bool
) -> None:
    """Give the group PARTITIONS partitions: a multiple or a divisor of what it has.

    Workers and producers go on. Partitions stop one after another while their keys move, for about a second per 100,000 keys. Producers
    that choose the queue themselves may use the former number for as long as they like: their messages are passed on. The order of each producer's
    messages for a key stays, also while the producer changes to the new number.

    The command returns when the keys have moved. The resize is finished 10 minutes after the last message for the former number; until then, new
    partitions wait for what the others had before. Then set PARTITIONS to the new number wherever it is set.
    """
    if sum((partitions is not None, status, abort, finish)) != 1:
        raise click.UsageError("give either a number of partitions, or one of --status, --abort and --finish")
    group = installation_in(context).group
    group.check()
    operation = Resize(group.client, group.names, group.settings.partitions)
    if partitions is not None:
        confirm(f"Resize from {group.topology.partitions} to {partitions} partitions? Keys of each partition wait while they move.", yes)
        operation.begin(partitions, by=who())
        progress = _wait(group, wait)
    elif abort:
        operation.abort(by=who())
        progress = _wait(group, wait)
    else:
        if finish:
            _finish(operation, wait)
        progress = _progress(group)
    group.follow(read_topology(group.client, group.names, group.settings.partitions))
    print_done(as_json, asdict(progress), describe(progress))
    if progress.state == "moving" and not status:
        context.exit(1)


def _finish(operation: Resize, seconds: float) -> None:
    """Wait until what was sent for the former number has passed, and finish. Raises `ClickException` if it takes too long."""
    until, said = time.monotonic() + seconds, uuid.uuid4().hex
    while not operation.finish(by=who(), said=said):
        if time.monotonic() > until:
            raise click.ClickException(
                f"partitions may still have messages for the former number after {seconds:g} s. Is one paused, or without a worker? See `partitions status`"
            )
        time.sleep(LOOK_SECONDS)


def _progress(group: Group) -> Progress:
    return read_progress(group.client, group.names, group.settings.partitions)


def _wait(group: Group, seconds: float) -> Progress:
    until = time.monotonic() + seconds
    while (progress := _progress(group)).state == "moving" and time.monotonic() < until:
        time.sleep(LOOK_SECONDS)
    return progress
