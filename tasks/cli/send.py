"""`partitions send`: send the rows of a file as messages."""

from __future__ import annotations

import click

from celery_partitions.admin.numbers import counted
from celery_partitions.cli.context import computation_named, installation_in
from celery_partitions.cli.files import read_messages
from celery_partitions.cli.output import json_option, print_done, refusals
from celery_partitions.producer.bulk import WhenFull, send_many


@click.command(short_help="Send the rows of a CSV or JSON lines file.")
@click.argument("name")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="Format of FILE. Default: by the file's extension.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar. Default: only on a terminal.")
@click.option(
    "--when-full",
    type=click.Choice(["block", "raise"]),
    default="block",
    show_default=True,
    help="When a queue has reached PARTITIONS_QUEUE_MAX_LENGTH: wait for room, or stop with an error.",
)
@json_option
@click.pass_context
@refusals
def send(
    context: click.Context,
    name: str,
    file: str,
    form: str | None,
    progress: bool | None,
    when_full: WhenFull,
    as_json: bool,
) -> None:
    """Send each row of FILE as a message to the computation NAME.

    FILE is CSV with a header, or JSON lines; - reads standard input.
    """
    installation = installation_in(context)
    computation = computation_named(installation, name, with_state=False)
    sent = send_many(installation, computation, read_messages(file, form, computation), progress, when_full=when_full)
    print_done(as_json, {"sent": sent}, f"{counted(sent, 'message')} sent to {name!r}")
