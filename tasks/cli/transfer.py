"""`partitions export` and `import`: a whole group to a file and back; also used to change the number of partitions."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import cast

import click

from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.importer import Importer
from celery_partitions.admin.numbers import counted
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import print_done, prints_facts
from celery_partitions.runtime.installation import Installation


@click.command(name="export", short_help="Write the whole group to a file.")
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--pause-all", is_flag=True, help="Pause all partitions during the export, for a snapshot that is consistent across them.")
@yes_option
@prints_facts
def export_group(context: click.Context, file: Path, pause_all: bool, yes: bool, as_json: bool) -> None:
    """Write states, queues, parked keys and their mailboxes, delayed messages, dead letters and changed policies to FILE.

    Each partition is a consistent snapshot. It is read in pages, so that Redis can serve others meanwhile. A partition that is
    too busy is paused while it is read and then resumed; if this command is killed meanwhile, run `resume`.

    A message that moves between partitions during the export may be in the file twice, but is never missing. --pause-all
    prevents that. If the app has a pipeline, all partitions are always paused, because its messages move between partitions.

    The file is JSON lines with base64 values, readable by its owner only. Signed states stay signed.
    """
    installation = installation_in(context)
    group = installation.group
    group.check()
    pause_all = pause_all or _has_stages(installation)
    if file.exists():
        confirm(f"{file} exists. Overwrite it?", yes)
    exporter = Exporter(group.client, group.names, group.topology.served, by=who())
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


@click.command(name="import", short_help="Load an export into an empty group (also used to change the number of partitions).")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--replace", is_flag=True, help="First delete everything in the group, including its number of partitions."
)
@yes_option
@prints_facts
def import_group(context: click.Context, file: Path, replace: bool, yes: bool, as_json: bool) -> None:
    """Load FILE, written by `export`, into this group. Stop the group's workers first.

    The group should be empty. Otherwise the command asks before it adds to it: imported states replace states of the same key,
    and imported messages go behind waiting ones. If the number of partitions differs, each state and message goes to the
    partition of its key. To change the number of partitions while everything runs, use `resize`.

    Unsigned states in the file are pickles: import only files that you trust.
    """
    installation = installation_in(context)
    group = installation.group
    importer = Importer(
        group.client, group.names, group.topology, installation.by_task, file, group.codec
    )
    importer.refuse_workers()
    erased = 0
    if replace:
        importer.check_file()
        confirm(f"Delete everything in the group {group.names.group!r} and load {file} instead?", yes)
        erased = importer.erase()
    group.check()
    importer.topology = group.topology
    there = importer.holds()
    if there:
        counts = ", ".join(f"{count:,} {what}" for what, count in there.items())
        confirm(f"The group {group.names.group!r} is not empty: {counts}. Add {file} to it?", yes)
    done = importer.run(by=who())
    text = f"{done.records:,} records of {done.from_partitions} partitions written to {done.to_partitions}"
    if done.without_key:
        text += f"; {done.without_key:,} messages went to partition (old number mod new N), because this app cannot compute their key"
    if done.left_out:
        text += "; the ids for deduplication were left out, because the number of partitions changed"
    print_done(as_json, {**asdict(done), "erased": erased}, text)
