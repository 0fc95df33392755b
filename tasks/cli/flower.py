"""`partitions flower`: stock Flower with the Partitions pages."""

from __future__ import annotations

from importlib.util import find_spec

import click

from celery_partitions.cli.context import app_installation
from celery_partitions.cli.output import refusals


@click.command(short_help="Run Flower with the Partitions pages.", context_settings={"ignore_unknown_options": True})
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[FLOWER OPTIONS]…")
@refusals
def flower(context: click.Context, options: tuple[str, ...]) -> None:
    """Run Flower with the Partitions pages: `celery -A shop partitions flower --port=5555 --basic-auth=user:password`.

    Takes the options and environment variables of `celery flower` (FLOWER_BASIC_AUTH, …). Without a login it listens on
    localhost only.
    """
    if any(word.lstrip("-").partition("=")[0] == "conf" for word in options):
        raise click.UsageError("--conf cannot be used: Flower reads our configuration through it. Use other options, or FLOWER_ variables")
    app_installation(context).resolved.check("dashboard")
    import tornado.options  # noqa: PLC0415 - Flower loads a web server, and no other command needs it
    from flower.command import flower as stock  # noqa: PLC0415 - likewise

    conf = find_spec("celery_partitions_config.flowerconfig")
    assert conf is not None and conf.origin is not None
    try:
        context.invoke(stock, tornado_argv=(f"--conf={conf.origin}", *options))
    except tornado.options.Error as error:
        raise click.UsageError(f"Flower: {error}. Write options as --name=value, for example --port=5555") from error
