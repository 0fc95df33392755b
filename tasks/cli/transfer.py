"""`partitions export` and `import`: all that a group holds, to a file and back; also how N is changed."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

import click

from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.importer import Importer
from celery_partitions.admin.numbers import counted
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import json_option, print_done, refusals
from celery_partitions.runtime.installation import Installation


@click.command(name="export", short_help="States, queues, dead letters to a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--pause-all", is_flag=True, help="Let all partitions rest meanwhile: consistent over them too.")
@yes_option
@json_option
@click.pass_context
@refusals
def export_group(context: click.Context, file: Path, pause_all: bool, yes: bool, as_json: bool) -> None:
    """Write states, queues, parked keys and their mailboxes, delayed messages, dead letters and changed policies to FILE.

    Each partition is written as it was at one moment. It is read in pages, so that the server serves others meanwhile; one that
    is too busy is paused while it is read, and goes on afterwards (when this command is killed meanwhile: `resume`). Over
    partitions a message that is forwarded meanwhile may be in the file twice, never not at all; --pause-all excludes that. With
    a pipeline all partitions rest in any case: its messages go from any of them to any other.

    The file is JSON lines with values in base64, for its owner only. Signed states stay signed.
    """
    installation = installation_in(context)
    group = installation.group
    group.check()
    pause_all = pause_all or _has_stages(installation)
    if file.exists():
        confirm(f"{file} exists. Write over it?", yes)
    exporter = Exporter(group.client, group.names, group.settings.partitions, by=who())
    records = exporter.write(file, pause_all=pause_all)
    paused = [group.names.queue_name(partition) for partition in exporter.paused]
    text = f"{counted(records, 'record')} written to {file}" + (
        f"; paused meanwhile: {', '.join(paused)}" if paused else ""
    )
    print_done(as_json, {"records": records, "paused": paused}, text)


def _has_stages(installation: Installation) -> bool:
    """Whether a pipeline of this app has run in the group."""
    group = installation.group
    ran = group.names.computations_in(cast(list[bytes], group.client.hkeys(group.names.group_meta)))
    return any(one.role == "stage" and one.name in ran for one in installation.computations.values())


@click.command(name="import", short_help="Such a file into an empty group; also how N is changed.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--replace", is_flag=True, help="Delete all that the group holds first, its number of partitions included."
)
@yes_option
@json_option
@click.pass_context
@refusals
def import_group(context: click.Context, file: Path, replace: bool, yes: bool, as_json: bool) -> None:
    """Write what `export` wrote to FILE into this group, whose workers must be stopped.

    The group must be empty; --yes adds to what is there (a key's state is replaced, messages come behind those that
    wait). With another number of partitions each state and message goes where its key belongs. To change N: stop the
    workers, `export`, set PARTITIONS, `import --replace`, start the workers.

    An unsigned state in the file is a pickle like any other: import only what you trust.
    """
    installation = installation_in(context)
    group = installation.group
    importer = Importer(
        group.client, group.names, installation.settings.partitions, installation.computations, file, group.codec
    )
    importer.refuse_workers()
    erased = 0
    if replace:
        importer.check_file()
        confirm(f"Delete all that the group {group.names.group!r} holds, and put {file} in its place?", yes)
        erased = importer.erase()
    group.check()
    there = importer.holds()
    if there:
        counts = ", ".join(f"{count:,} {what}" for what, count in there.items())
        confirm(f"The group {group.names.group!r} is not empty: {counts}. Add {file} to it?", yes)
    done = importer.run(by=who())
    text = f"{done.records:,} records of {done.from_partitions} partitions written to {done.to_partitions}"
    if done.without_key:
        text += f"; {done.without_key:,} messages whose key can't be had here went by their old partition's number"
    if done.left_out:
        text += "; ids seen, for dropping duplicates, can't be carried to another N"
    print_done(as_json, {**asdict(done), "erased": erased}, text)
