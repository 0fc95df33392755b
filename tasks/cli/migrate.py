"""`partitions migrate`: reads every state with this code, and brings it to the newest form."""

from __future__ import annotations

from dataclasses import asdict

import click

from celery_partitions.admin.migration import ComputationReport, Migration
from celery_partitions.admin.numbers import counted
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import print_json, print_table, prints_facts
from celery_partitions.model.escaping import escape


@click.command(short_help="Check that this code reads every state, or write all states in its form.")
@click.option("--check", "mode", flag_value="check", default="check", help="Read every state and write nothing. The default.")
@click.option("--apply", "mode", flag_value="apply", help="Also write the states that this code stores in another form.")
@yes_option
@prints_facts
def migrate(context: click.Context, mode: str, yes: bool, as_json: bool) -> None:
    """Read every state in Redis with this app's code: its classes, former names and migrations.

    Run `migrate --check` with the new code before you deploy it. The exit code is 1 if a state cannot be read. `migrate --apply` writes the
    states that the code would store in another form. Then older migrations and former names can be removed from the code. Workers may run
    meanwhile; those with older code lose the partitions that they cannot read any more.
    """
    installation = installation_in(context)
    group = installation.group
    group.check()
    migration = Migration(group.client, group.names, group.topology.served, group.codec, installation.computations.values())
    if mode == "apply":
        confirm("Write all states in the form of this code? Workers with older code cannot read them any more.", yes)
    reports = migration.apply(by=who()) if mode == "apply" else migration.check()
    if as_json:
        print_json({"applied": mode == "apply", "computations": [_document(one) for one in reports]})
    else:
        _print(reports, applied=mode == "apply")
    if any(one.failed for one in reports):
        context.exit(1)


def _document(report: ComputationReport) -> dict[str, object]:
    return {**asdict(report), "versions": {str(version): count for version, count in sorted(report.versions.items())}}


def _print(reports: list[ComputationReport], *, applied: bool) -> None:
    columns = ("computation", "version", "states", "by version", "outdated", *(("written", "busy") if applied else ()), "unreadable")
    rows = []
    for one in reports:
        if one.version is not None:
            found = ", ".join(f"{count:,} with {'?' if version < 0 else version}" for version, count in sorted(one.versions.items())) or "-"
            rows.append((one.computation, one.version, one.states, found, one.outdated, *((one.written, one.busy) if applied else ()), one.failed))
    print_table(columns, rows)
    for one in reports:
        if one.version is None and one.states:
            click.echo(f"This app has no computation {escape(one.computation)!r}, of which there are {counted(one.states, 'state')}.")
        if one.former_timers or one.former_messages:
            what = f"{counted(one.former_timers, 'timer')} and {counted(one.former_messages, 'delayed message')}"
            click.echo(f"{what} still have a former name of {escape(one.computation)!r}{' (timers: until now)' if applied else ''}.")
    for one in reports:
        for failure in one.failures:
            click.echo(escape(f"{failure.computation}, key {failure.key}, partition {failure.partition}: {failure.error}"), err=True)
        if one.failed > len(one.failures):
            click.echo(f"{escape(one.computation)}: {one.failed - len(one.failures):,} more", err=True)
