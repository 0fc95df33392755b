"""`partitions versions`: the versions of states and workers, and what a deploy waits for."""

from __future__ import annotations

import click

from celery_partitions.admin.state_versions import VersionReport, read_versions
from celery_partitions.cli.context import installation_in
from celery_partitions.cli.output import print_json, print_table, prints_facts
from celery_partitions.model.escaping import escape


@click.command(short_help="Show the versions of states and workers, and what a deploy waits for.")
@click.option("--exit-code", is_flag=True, help="Exit with 1 while a deploy waits for something.")
@prints_facts
def versions(context: click.Context, exit_code: bool, as_json: bool) -> None:
    """Show which versions of each computation's states are stored, and which the running workers have.

    The numbers of states by version are estimates from a sample; `migrate --check` reads all. Below the table are the things that a deploy
    still waits for.
    """
    group = installation_in(context).group
    group.check()
    report = read_versions(group.client, group.names, group.topology.served)
    if as_json:
        print_json(report)
    else:
        _print(report)
    if exit_code and report.waits:
        context.exit(1)


def _print(report: VersionReport) -> None:
    rows = [
        (
            one.computation,
            one.states,
            ", ".join(f"{count:,} with {'?' if version < 0 else version}" for version, count in one.versions.items()) or "-",
            ", ".join(f"{count} with {version}" for version, count in one.partitions.items()) or "-",
            ", ".join(f"{len(nodes)} with {version}" for version, nodes in one.workers.items()) or "-",
        )
        for one in report.computations
    ]
    print_table(("computation", "states", "about", "partitions up to", "workers"), rows)
    for text in report.waits:
        click.echo(escape(f"Waiting: {text}."))
