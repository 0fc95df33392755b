"""`partitions state`: get, set and delete a key's state. `partitions stored`: facts about it that need no unpickling."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import click

from celery_partitions.admin.documents import json_key
from celery_partitions.admin.state_editor import SeenState
from celery_partitions.admin.state_json import plain_fields, plain_value, state_from_json, text_of
from celery_partitions.admin.wording import state_changed
from celery_partitions.cli.context import (
    base64_option,
    computation_named,
    confirm,
    installation_in,
    key_argument,
    shown_key,
    typed_key,
    who,
    yes_option,
)
from celery_partitions.cli.output import print_done, print_json, prints_facts
from celery_partitions.runtime.installation import Installation

#: With --yes, how often a change is attempted when the state keeps changing meanwhile.
TRIES = 20


class _StateGroup(click.Group):
    """`state NAME KEY` is `state get NAME KEY`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if args and args[0] not in self.commands and args[0] not in ctx.help_option_names:
            args = ["get", *args]
        return super().parse_args(ctx, args)


@click.group(cls=_StateGroup, short_help="Get, set or delete a key's state.")
def state() -> None:
    """Get, set or delete a key's state in a state computation. `state NAME KEY` is short for `state get NAME KEY`."""


@state.command(name="get", short_help="Show the state as last committed.")
@click.argument("name")
@key_argument
@base64_option
@prints_facts
def get_state(context: click.Context, name: str, key: str, in_base64: bool, as_json: bool) -> None:
    """Show the state of KEY in the state computation NAME, as last committed."""
    seen = _see(installation_in(context), name, typed_key(key, in_base64))
    if seen.stored is None:
        raise click.ClickException(f"{name!r} has no state for the key {shown_key(seen.key)!r}")
    if seen.error:
        raise click.ClickException(seen.error)
    if as_json:
        fields = plain_value(plain_fields(seen.state))
        print_json({"computation": name, **json_key(seen.key), "partition": seen.partition, "state": fields})
        return
    click.echo(f"{name}, key {shown_key(seen.key)}, partition {seen.partition}: {type(seen.state).__qualname__}")
    _print_value(seen.plain)


@state.command(name="set", short_help="Set the state from JSON; asks first.")
@click.argument("name")
@key_argument
@click.argument("new", metavar="JSON")
@click.option(
    "--replace", is_flag=True, help="Reset fields missing from JSON to their defaults, instead of keeping their current values."
)
@base64_option
@yes_option
@prints_facts
def set_state(
    context: click.Context, name: str, key: str, new: str, replace: bool, in_base64: bool, yes: bool, as_json: bool
) -> None:
    """Set the state of KEY in the state computation NAME to JSON, an object. The state class is the schema.

    Fields missing from JSON keep their values. An unknown field or a value of the wrong type is refused, with the field's path.
    If the current state cannot be read, only --replace can set one. The command shows the old and the new state and asks. If the state changes before you answer, nothing is
    written. The worker that owns the partition continues from the new state. The audit records user, time, old and new state.
    """
    computation = computation_named(installation_in(context), name, with_state=True)
    state_class = computation.state
    assert state_class is not None
    _change(context, name, typed_key(key, in_base64), lambda seen: state_from_json(state_class, new, None if replace else seen.to_merge_with()), yes, as_json)


@state.command(name="delete", short_help="Delete the state; asks first.")
@click.argument("name")
@key_argument
@base64_option
@yes_option
@prints_facts
def delete_state(context: click.Context, name: str, key: str, in_base64: bool, yes: bool, as_json: bool) -> None:
    """Delete the state of KEY in the state computation NAME. The key's next message starts from a new state object.

    The command shows the state and asks. The audit records the old state.
    """
    _change(context, name, typed_key(key, in_base64), None, yes, as_json)


def _change(
    context: click.Context, name: str, key: str, make: Callable[[SeenState], Any] | None, yes: bool, as_json: bool
) -> None:
    """Replace a state by what `make` makes of it, or delete it (None), after the user has agreed to that."""
    installation = installation_in(context)
    editor = installation.group.state_editor
    for _ in range(TRIES if yes else 1):
        seen = _see(installation, name, key)
        if make is None and seen.stored is None:
            raise click.ClickException(f"{name!r} has no state for the key {shown_key(seen.key)!r}")
        made = None if make is None else make(seen)
        if not yes:
            _show_change(seen, made)
            confirm(f"{'Delete' if make is None else 'Set'} the state of {shown_key(seen.key)!r}?", yes)
        if (editor.delete(seen, by=who()) if make is None else editor.set(seen, made, by=who())) == "ok":
            _print_change(as_json, name, seen, made)
            return
    raise click.ClickException(state_changed(seen, shown_key(seen.key)))


def _see(installation: Installation, name: str, key: str) -> SeenState:
    return installation.group.state_editor.see(computation_named(installation, name, with_state=True), key)


def _show_change(seen: SeenState, made: Any) -> None:
    click.echo("old:", err=True)
    _print_value(seen.plain, err=True)
    click.echo("new:", err=True)
    _print_value(None if made is None else plain_fields(made), err=True)


def _print_change(as_json: bool, name: str, seen: SeenState, made: Any) -> None:
    old, new = plain_value(seen.plain), None if made is None else plain_value(plain_fields(made))
    facts = {"computation": name, **json_key(seen.key), "partition": seen.partition, "old": old, "new": new}
    print_done(as_json, facts, f"the state of {shown_key(seen.key)!r} in {name!r} is {'deleted' if made is None else 'set'}")


def _print_value(value: Any, err: bool = False) -> None:
    if isinstance(value, dict):
        for field, one in value.items():
            click.echo(f"  {field} = {text_of(one)}", err=err)
    else:
        click.echo(f"  {'none' if value is None else value}", err=err)


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
