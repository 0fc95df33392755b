"""`partitions status` and `partitions workers`: how things stand."""

from __future__ import annotations

import click

from celery_partitions.admin.workers import read_workers
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import json_option, print_json, print_table, refusals


@click.command(short_help="Who owns each partition, how far behind it is.")
@json_option
@click.pass_context
@refusals
def status(context: click.Context, as_json: bool) -> None:
    """Who owns each partition and the ingress, and how far behind it is."""
    rows = installation_in(context).group.status()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("queue", "owner", "length", "processed", "keys", "parked", "dead", "delayed", "paused"),
        [
            (
                r.queue,
                r.owner or "-",
                r.length,
                r.processed,
                r.keys,
                r.parked,
                r.dead,
                r.delayed,
                "yes" if r.paused else "no",
            )
            for r in rows
        ],
    )


@click.command(short_help="The workers, what each holds, who is drained.")
@json_option
@click.pass_context
@refusals
def workers(context: click.Context, as_json: bool) -> None:
    """The workers of partitions: what each holds, was pinned to, and whether it is being drained."""
    group = installation_in(context).group
    group.check()
    rows = read_workers(group.client, group.names)
    if as_json:
        print_json(rows)
        return
    print_table(
        ("node", "holds", "pinned to", "draining"),
        [
            (
                row.node,
                ", ".join(row.queues) or "-",
                ", ".join(row.pinned) or "-",
                "yes" if row.draining else "no",
            )
            for row in rows
        ],
    )
