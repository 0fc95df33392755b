"""`partitions stored`: what can be seen of a key's state without unpickling it."""

from __future__ import annotations

from dataclasses import asdict

import click

from tasks.cli.output import json_option, print_json, refusals
from tasks.model.keys import partition_of, spell_key
from tasks.producer.declarations import installation_of

_SIGNED = {True: "by a key of this process", False: "by no key of this process", None: "not verified: no key here"}


@click.command()
@click.argument("name")
@click.argument("key")
@json_option
@click.pass_context
@refusals
def stored(context: click.Context, name: str, key: str, as_json: bool) -> None:
    """What can be seen of the state of KEY in the state computation NAME without unpickling it: size, and who signed it.

    For a process that lacks the signing key, or a state that can't be read. NAME need not be a computation of this app.
    """
    app = context.obj.app
    app.finalize(auto=True)
    installation = installation_of(app)
    if installation is None:
        raise click.ClickException(f"the app {app.main!r} has no partitions: call tasks.install(app), or use -A tasks")
    found = installation.group.states.facts(name, key)
    if found is None:
        raise click.ClickException(f"{name!r} has no state for the key {key!r}")
    partition = partition_of(key, installation.settings.partitions)
    if as_json:
        print_json({"computation": name, "key": spell_key(key), "partition": partition, **asdict(found)})
        return
    click.echo(f"{name}, key {key}, partition {partition}: {found.bytes} bytes, {found.form}")
    if found.form == "signed":
        click.echo(f"  {_SIGNED[found.verified]}")
