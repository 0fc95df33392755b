"""`partitions attention`: what needs an operator, worst first."""

from __future__ import annotations

import click

from celery_partitions.admin.attention_watch import AttentionWatch, attention_json
from celery_partitions.admin.numbers import span
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_json, prints_facts
from celery_partitions.model.escaping import escape
from celery_partitions.producer.pipelines import ends_with_processes


@click.command(short_help="Show what needs an operator. Exit code 1 if anything does.")
@prints_facts
def attention(context: click.Context, as_json: bool) -> None:
    """Show what needs an operator, worst first: what, why, since when, and the one thing to do.

    The exit code is 1 if anything needs an operator, else 0. Rates come from the histories that workers write, so one call is enough.
    """
    group = installation_in(context).group
    found = AttentionWatch(group, ends_with_processes).look()
    if as_json:
        print_json(attention_json(found))
    elif not found:
        click.echo("Nothing needs you.")
    now = group.now()
    for one in () if as_json else found:
        since = "" if one.since is None else f", for {span(now - one.since)}"
        click.echo(f"{one.severity}: {escape(one.what)}{since}")
        click.echo(f"    why: {escape(one.why)}")
        click.echo(f"    do:  {escape(one.action)}")
    context.exit(1 if found else 0)
