"""`partitions attention`: what needs an operator, worst first. `partitions doctor`: health checks, with fixes."""

from __future__ import annotations

from functools import partial

import click

from celery_partitions.admin.attention_watch import AttentionWatch, attention_json
from celery_partitions.admin.doctor import examine, judge_settings
from celery_partitions.admin.numbers import span
from celery_partitions.admin.queue_consumers import ask_for_consumers
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_facts, print_json, prints_facts
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


@click.command(short_help="Check the server, the group and the settings.")
@prints_facts
def doctor(context: click.Context, as_json: bool) -> None:
    """Check the Redis server, the partition group and the settings of this process. Each line is ok, warn or bad, with the fix.

    The exit code is 1 if any check is bad.
    """
    installation = installation_in(context)
    group = installation.group
    ask = partial(ask_for_consumers, installation.app)
    checks = [*judge_settings(installation.resolved, installation.misspelt), *examine(installation.settings, group.client, group.names, ask)]
    print_facts(as_json, checks, ("", "subject", "finding"), [(one.verdict, one.subject, one.text) for one in checks], whole=("", "subject"))
    if any(one.verdict == "bad" for one in checks):
        context.exit(1)
