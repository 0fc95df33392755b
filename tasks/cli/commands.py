"""`celery -A APP partitions`: the group, and what stands in it. Each subject has a file of its own."""

from __future__ import annotations

import click

from celery_partitions.cli.audit import audit
from celery_partitions.cli.context import SINK
from celery_partitions.cli.doctor import doctor
from celery_partitions.cli.keys import keys
from celery_partitions.cli.letters import dead_letters
from celery_partitions.cli.parked import parked
from celery_partitions.cli.pausing import drain, pause, resume, undrain
from celery_partitions.cli.policy import policy
from celery_partitions.cli.sending import send
from celery_partitions.cli.settings import settings
from celery_partitions.cli.sink import sink
from celery_partitions.cli.source import source
from celery_partitions.cli.states import state
from celery_partitions.cli.status import status, workers
from celery_partitions.cli.stored import stored
from celery_partitions.cli.top import top
from celery_partitions.cli.transfer import export_group, import_group


@click.group(name="partitions")
@click.option("--sink", "sink_name", metavar="NAME", help="Of the group of a sink that has a process, not of the app's.")
@click.pass_context
def partitions(context: click.Context, sink_name: str | None) -> None:
    """See and work the partitions: status, states, keys, dead letters, pausing, files; run a pipeline's sources and sinks.

    `partitions --sink NAME status` (or dead-letters, parked, pause …) is of what waits for a sink's process. Every command that
    prints facts has --json. Exit codes: 0 done, 1 refused or not found, 2 wrong usage. What can't be undone asks first,
    and wants --yes where nobody can be asked.
    """
    if sink_name is not None:
        context.meta[SINK] = sink_name


for command in (
    status,
    top,
    doctor,
    settings,
    workers,
    keys,
    state,
    stored,
    parked,
    dead_letters,
    pause,
    resume,
    drain,
    undrain,
    policy,
    audit,
    send,
    sink,
    source,
    export_group,
    import_group,
):
    partitions.add_command(command)
