"""`partitions stored`: facts about a key's stored state that need no unpickling."""

from __future__ import annotations

from dataclasses import asdict

import click

from celery_partitions.admin.documents import json_key
from celery_partitions.cli.context import base64_option, installation_in, key_argument, shown_key, typed_key
from celery_partitions.cli.output import print_json, prints_facts

_SIGNED = {True: "by a key of this process", False: "by no key of this process", None: "not verified: no key here"}


@click.command(short_help="Show a stored state's size and signature, without unpickling it.")
@click.argument("name")
@key_argument
@base64_option
@prints_facts
def stored(context: click.Context, name: str, key: str, in_base64: bool, as_json: bool) -> None:
    """Show the size and the signature of the state of KEY in the state computation NAME, without unpickling it.

    Use it in a process without the signing key, or for a state that cannot be read. NAME need not be a computation of this app.
    """
    installation, key = installation_in(context), typed_key(key, in_base64)
    computation = installation.by_task.get(name)
    found = installation.group.states.meta(name, key, () if computation is None else computation.formerly)
    if found is None:
        raise click.ClickException(f"{name!r} has no state for the key {shown_key(key)!r}")
    partition = installation.group.topology.partition_of(key)
    if as_json:
        print_json({"computation": name, **json_key(key), "partition": partition, **asdict(found)})
        return
    click.echo(f"{name}, key {shown_key(key)}, partition {partition}: {found.bytes} bytes, {found.form}")
    if found.form == "signed":
        click.echo(f"  {_SIGNED[found.verified]}")
