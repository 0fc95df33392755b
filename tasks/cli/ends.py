"""`partitions source` and `partitions sink`: run the processes at the ends of pipelines."""

from __future__ import annotations

import logging
import sys

import click

from celery_partitions.cli.context import app_installation
from celery_partitions.cli.output import refusals
from celery_partitions.sinks.group import sink_installation
from celery_partitions.sinks.runner import keep_standard_output, run_sink
from celery_partitions.sources.runner import run_sources
from celery_partitions.worker.logs import Escaping, JsonFormatter


@click.command(short_help="Read a pipeline's source: TCP, generator, file or Redis stream.")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("-l", "--loglevel", default="INFO", show_default=True, help="Lowest level to log, on standard error.")
@refusals
def source(context: click.Context, names: tuple[str, ...], loglevel: str) -> None:
    """Read the source NAME and send its messages to the partition queues until SIGTERM or SIGINT. It then exits with code 0.

    A source without a config needs no process: producers send to it. Reading pauses while a partition's queue holds
    PARTITIONS_QUEUE_MAX_LENGTH messages (100,000 if not set). Input that cannot be decoded or keyed becomes a dead letter of
    the ingress.

    One process can read several TCP sources: messages on a new connection to one source do not overtake messages sent to
    another source before it connected. Several processes may read the same TCP source, each on its own port or host. One
    process at a time reads a generator, a file or a stream; a second one waits as a standby.
    """
    installation = app_installation(context)
    settings = installation.resolved.check("workers")
    log_to_standard_error(loglevel, as_json=settings.log_format == "json")
    run_sources(installation, names, lambda line: click.echo(line))


def log_to_standard_error(level: str, *, as_json: bool) -> None:
    """Log to standard error; standard output is for the command's own output."""
    handler = logging.StreamHandler(sys.stderr)
    text = logging.Formatter("[%(asctime)s: %(levelname)s] %(message)s")
    handler.setFormatter(JsonFormatter() if as_json else text)
    handler.addFilter(Escaping())
    logger = logging.getLogger("celery.partitions")
    logger.addHandler(handler)
    logger.propagate = False
    try:
        logger.setLevel(level.upper())
    except ValueError:
        raise click.UsageError(f"--loglevel: {level!r} is not a log level; expected DEBUG, INFO, WARNING or ERROR") from None


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
