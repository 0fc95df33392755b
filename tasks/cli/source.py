"""`partitions source`: the process that reads a source."""

from __future__ import annotations

import logging
import sys

import click

from celery_partitions.cli.context import app_installation
from celery_partitions.cli.output import refusals
from celery_partitions.sources.runner import run_sources
from celery_partitions.worker.logs import Escaping, JsonFormatter


@click.command(short_help="Read a pipeline's source: TCP, generator, file, Redis stream.")
@click.argument("names", metavar="NAME…", nargs=-1, required=True)
@click.option("-l", "--loglevel", default="INFO", show_default=True, help="What is logged, on standard error.")
@click.pass_context
@refusals
def source(context: click.Context, names: tuple[str, ...], loglevel: str) -> None:
    """Read the source NAME and put its messages on the partition queues, until SIGTERM or SIGINT; exits 0 then.

    A source without a config has no process: producers send to it. While a partition's queue holds PARTITIONS_QUEUE_MAX_LENGTH messages
    (100,000 where that is not set) nothing more is read. What can't be decoded, or has no key, is a dead letter of the ingress.

    Several TCP sources can be read by one process: then a connection to one does not overtake what was sent to another before it came.
    Of a TCP source several processes may run, on ports or hosts of their own. A generator, a file and a stream are read by one; a
    second one stands by.
    """
    installation = app_installation(context)
    settings = installation.resolved.check("workers")
    log_to_standard_error(loglevel, as_json=settings.log_format == "json")
    run_sources(installation, names, lambda line: click.echo(line))


def log_to_standard_error(level: str, *, as_json: bool) -> None:
    """Standard output is for what the command says."""
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
        raise click.UsageError(f"--loglevel: {level!r} is no level; say DEBUG, INFO, WARNING or ERROR") from None
