"""`partitions audit`: the log of operators' actions."""

from __future__ import annotations

import click
import msgspec

from celery_partitions.admin.numbers import utc
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_facts, prints_facts


@click.command(short_help="Show what operators did and when.")
@click.option("--limit", type=click.IntRange(min=1), default=20, show_default=True, help="Show at most this many records.")
@prints_facts
def audit(context: click.Context, limit: int, as_json: bool) -> None:
    """Show what operators did, newest first: time (UTC), user, action, and the old and new values.

    The user is the operating system user and the host that the command ran as. Redis keeps about the last 10,000 records.
    """
    group = installation_in(context).group
    group.check()
    records = group.audit.last(limit)
    print_facts(
        as_json,
        records,
        ("when", "who", "what", "detail"),
        [(utc(record.at), record.who, record.what, msgspec.json.encode(record.detail).decode()) for record in records],
        whole=("when", "what"),
    )
