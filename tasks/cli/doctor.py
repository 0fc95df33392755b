"""`partitions doctor`: health checks, with fixes."""

from __future__ import annotations

from functools import partial

import click

from celery_partitions.admin.doctor import examine, judge_settings
from celery_partitions.admin.queue_consumers import ask_for_consumers
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_facts, prints_facts


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
