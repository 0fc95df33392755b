"""The command group `celery -A APP partitions`, as Celery's entry point finds it.

Celery loads this module for every `celery` command of every project in the same environment, so it imports nothing but click. The
commands are loaded when one of them is asked for.
"""

from __future__ import annotations

from importlib import import_module

import click

#: The key in a context's `meta` for the name that was given with `--sink`.
SINK = "celery_partitions.cli.sink"


class LazyGroup(click.Group):
    """A group whose commands are added by a module that is imported when it is needed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        import_module("celery_partitions.cli.commands")
        return super().list_commands(ctx)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        import_module("celery_partitions.cli.commands")
        return super().get_command(ctx, cmd_name)


@click.group(name="partitions", cls=LazyGroup)
@click.option("--sink", "sink_name", metavar="NAME", help="Use the partition group of this sink, instead of the app's.")
@click.pass_context
def partitions(context: click.Context, sink_name: str | None) -> None:
    """Show and operate the partitions: status, states, keys, dead letters, pausing, export; run a pipeline's sources and sinks.

    `partitions --sink NAME status` (or dead-letters, parked, pause, …) is about the messages that wait for a sink's process. Every
    command that prints facts has --json. Exit codes: 0 done, 1 refused or not found, 2 wrong usage. A command that can't be undone
    asks first; where nobody can answer, it needs --yes.
    """
    if sink_name is not None:
        context.meta[SINK] = sink_name
