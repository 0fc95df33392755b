"""`partitions sink`: the process that delivers to a sink outside Redis."""

from __future__ import annotations

import click

from celery_partitions.cli.context import app_installation
from celery_partitions.cli.output import refusals
from celery_partitions.sinks.group import sink_installation
from celery_partitions.sinks.runner import keep_standard_output, run_sink


@click.command(short_help="Deliver a pipeline's outputs: to a function, TCP, a file, standard output.")
@click.argument("name")
@click.option("-l", "--loglevel", default="INFO", show_default=True, help="What is logged, on standard error.")
@click.pass_context
@refusals
def sink(context: click.Context, name: str, loglevel: str) -> None:
    """Deliver the outputs of the sink NAME, in order per key, at least once, until SIGTERM or SIGINT.

    It is a partition worker of the sink's own group. One holds its lease, others of the same name stand by. Sinks in Redis (a
    task, a stream, a list) need no process. `partitions --sink NAME status`, and any other command, shows the sink's group.

    While the peer of a TCP sink is away, or a file can't be written, messages wait. What a function raises follows the failure
    policy: its key waits and is tried again.
    """
    installation = app_installation(context)
    installation.resolved.check("workers")
    installation = sink_installation(installation, name, keep_standard_output)
    context.exit(run_sink(installation, name, loglevel))
