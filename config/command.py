"""The command group `celery -A APP partitions`, which Celery finds by its entry point.

Celery loads this module for every `celery` command of every project in the same environment, so it imports nothing but click. The
commands are loaded when one of them is used.
"""

from __future__ import annotations

from importlib import import_module

import click

#: The key in a click context's `meta` for the value of `--sink`.
SINK = "celery_partitions.cli.sink"


class LazyGroup(click.Group):
    """A group that imports its commands when they are needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        import_module("celery_partitions.cli.commands")
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        import_module("celery_partitions.cli.commands")
        return super().get_command(ctx, cmd_name)


@click.group(name="partitions", cls=LazyGroup)
@click.option("--sink", "sink_name", metavar="NAME", help="Operate on sink NAME's own queue instead of the app's partitions.")
@click.pass_context
def partitions(context: click.Context, sink_name: str | None) -> None:
    """Show and operate the partitions: status, states, keys, dead letters, pausing, export. Run a pipeline's sources and sinks.

    With --sink NAME, the commands (status, dead-letters, parked, pause, …) operate on the messages that wait for that sink.

    Every command that prints facts has --json. Exit codes: 0 done, 1 refused or not found, 2 wrong usage. A command that cannot
    be undone asks for confirmation; without a terminal it needs --yes.
    """
    if sink_name is not None:
        context.meta[SINK] = sink_name
