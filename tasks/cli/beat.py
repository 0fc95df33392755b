"""`partitions beat`: the entries of the schedule that workers run."""

from __future__ import annotations

import click

from celery_partitions.admin.numbers import utc
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_facts, prints_facts
from celery_partitions.producer.beat import planned


@click.command(short_help="Show the entries of beat_schedule, with last and next run.")
@prints_facts
def beat(context: click.Context, as_json: bool) -> None:
    """Show the entries of the app's beat_schedule that workers run with PARTITIONS_BEAT: schedule, last and next run (UTC).

    Changes of the schedule take effect when a worker with the new code starts.
    """
    found = list(planned(installation_in(context)))
    rows = [(one.name, one.task, one.schedule, utc(one.last_run), utc(one.next_run), one.runs) for one in found]
    print_facts(as_json, found, ("entry", "task", "schedule", "last run", "next run", "runs"), rows)
    if not found and not as_json:
        click.echo("no worker has started with PARTITIONS_BEAT=1, or the schedule has no entries", err=True)
