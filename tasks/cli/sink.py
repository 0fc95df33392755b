"""`partitions sink`: run the process that delivers to a sink outside Redis."""

from __future__ import annotations

import click

from celery_partitions.cli.context import app_installation
from celery_partitions.cli.output import refusals
from celery_partitions.sinks.group import sink_installation
from celery_partitions.sinks.runner import keep_standard_output, run_sink


@click.command(short_help="Deliver a pipeline's outputs to a function, TCP, a file or stdout.")
@click.argument("name")
@click.option("-l", "--loglevel", default="INFO", show_default=True, help="Lowest level to log, on standard error.")
@refusals
def sink(context: click.Context, name: str, loglevel: str) -> None:
    """Deliver the outputs of the sink NAME, in order per key, at least once, until SIGTERM or SIGINT.

    The process is a partition worker of the sink's own group. One process holds the lease; others with the same NAME wait as standbys.
    Sinks in Redis (a task, a stream, a list) need no process. `partitions --sink NAME status` and other commands show the
    sink's group.

    Messages wait while the peer of a TCP sink is down or a file cannot be written. If a sink function raises, the failure
    policy applies: the key is parked and retried.
    """
    installation = app_installation(context)
    installation.resolved.check("workers")
    installation = sink_installation(installation, name, keep_standard_output)
    context.exit(run_sink(installation, name, loglevel))
