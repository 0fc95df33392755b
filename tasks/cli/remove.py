"""`partitions remove`: delete what a computation that was removed from the code has left."""

from __future__ import annotations

import click

from celery_partitions.admin.numbers import counted
from celery_partitions.admin.removal import count_states, remove_computation
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import print_done, prints_facts


@click.command(short_help="Delete the states and timers of a computation that the code has no more.")
@click.argument("name")
@yes_option
@prints_facts
def remove(context: click.Context, name: str, yes: bool, as_json: bool) -> None:
    """Delete all states and timers of the computation NAME, after it was removed from the code. Its dead letters stay.

    Neither this app nor a running worker may know NAME.
    """
    installation = installation_in(context)
    group = installation.group
    group.check()
    if name in installation.by_task:
        raise click.ClickException(f"this app has the computation {name!r}. Remove it from the code first")
    if group.names.computation_field(name).encode() not in group.client.hkeys(group.names.group_meta):
        raise click.ClickException(f"no computation {name!r} ever ran in this group")
    partitions = group.topology.served
    states = count_states(group.client, group.names, partitions, name)
    confirm(f"Delete {counted(states, 'state')} of {name!r}, and its timers? This cannot be undone.", yes)
    timers = remove_computation(group.client, group.names, partitions, name, by=who())
    facts = {"computation": name, "states": states, "timers": timers}
    print_done(as_json, facts, f"deleted {counted(states, 'state')} and {counted(timers, 'timer')} of {name!r}")
