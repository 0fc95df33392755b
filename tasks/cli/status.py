"""`partitions status` and `partitions workers`: the partitions and the workers at this moment."""

from __future__ import annotations

import click

from celery_partitions.admin.numbers import counted
from celery_partitions.admin.workers import read_workers
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_facts, print_json, print_table, prints_facts


@click.command(short_help="Show each partition's owner, backlog and counts.")
@prints_facts
def status(context: click.Context, as_json: bool) -> None:
    """Show the owner, the backlog and the counts of each partition and of the ingress."""
    rows = installation_in(context).group.status()
    if as_json:
        print_json(rows)
        return
    is_spread = any(r.server for r in rows)
    print_table(
        ("queue", *(["server"] if is_spread else []), "owner", "length", "processed", "keys", "parked", "running", "dead", "delayed", "paused"),
        [
            (
                r.queue,
                *([f"{r.server} (away)" if r.away else r.server or "(control)"] if is_spread else []),
                r.owner or ("(states too new for its workers)" if r.refused_to else "-"),
                r.length,
                r.processed,
                r.keys,
                r.parked,
                r.running,
                r.dead,
                r.delayed,
                "yes" if r.paused else "no",
            )
            for r in rows
        ],
    )
    if waiting := sum(r.parked + r.running for r in rows):
        click.echo(f"{counted(waiting, 'key')} parked or running: their later messages wait in mailboxes, not in the queue. `partitions parked list` counts them.")
    if any(r.owner is None and r.refused_to for r in rows):
        click.echo("Some partitions have no owner, because newer code wrote their states. `partitions versions` shows what the deploy waits for.")


@click.command(short_help="List the workers and the partitions that each owns.")
@prints_facts
def workers(context: click.Context, as_json: bool) -> None:
    """List the partition workers: the queues that each owns, the queues it is pinned to, and whether it is being drained."""
    group = installation_in(context).group
    group.check()
    rows = read_workers(group.client, group.names)
    table = [(one.node, ", ".join(one.queues) or "-", ", ".join(one.pinned) or "-", "yes" if one.draining else "no") for one in rows]
    print_facts(as_json, rows, ("node", "holds", "pinned to", "draining"), table)
