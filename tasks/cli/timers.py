"""`partitions timers`: the timers of a key."""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime

import click

from celery_partitions.admin.documents import json_key
from celery_partitions.admin.state_json import text_of
from celery_partitions.admin.timers import cancel_timer, timers_of
from celery_partitions.cli.context import (
    base64_option,
    confirm,
    installation_in,
    key_argument,
    shown_key,
    typed_key,
    who,
    yes_option,
)
from celery_partitions.cli.output import json_option, print_json, print_table, refusals


@click.command(short_help="Show the timers of a key, or cancel one.")
@key_argument
@click.option("--cancel", metavar="NAME", help="Cancel the timer of this name; asks first.")
@click.option("--computation", metavar="NAME", help="Only timers of this computation.")
@base64_option
@yes_option
@json_option
@click.pass_context
@refusals
def timers(
    context: click.Context, key: str, cancel: str | None, computation: str | None, in_base64: bool, yes: bool, as_json: bool
) -> None:
    """Show when the timers of KEY are due (UTC), in the computations of this app.

    A cancelled timer does not fire, also if its message is on the queue already. The audit records who cancelled it.
    """
    installation = installation_in(context)
    spelled, group = typed_key(key, in_base64), installation.group
    wanted = [one for name, one in sorted(installation.computations.items()) if computation in (None, name)]
    found = timers_of(group.states, wanted, spelled)
    if cancel is None:
        if as_json:
            print_json([{**asdict(one), **json_key(spelled)} for one in found])
        else:
            rows = [
                (one.computation, one.name or "(expiry)", f"{datetime.fromtimestamp(one.due, UTC):%Y-%m-%d %H:%M:%S}", one.repeats or "", text_of(one.message))
                for one in found
            ]
            print_table(("computation", "timer", "due", "repeats", "message"), rows)
        return
    chosen = [one for one in found if one.name == cancel]
    if len(chosen) != 1:
        known = ", ".join(f"{one.name!r} of {one.computation!r}" for one in found) or "none"
        raise click.ClickException(f"{len(chosen)} timers of {shown_key(spelled)!r} are named {cancel!r}. Set: {known}. --computation chooses one")
    [timer] = chosen
    confirm(f"Cancel the timer {cancel!r} of {timer.computation!r} for {shown_key(spelled)!r}?", yes)
    seen = group.state_editor.see(installation.by_task[timer.computation], spelled)
    if cancel_timer(group.state_editor, seen, cancel, by=who()) != "ok":
        raise click.ClickException(f"the key {shown_key(spelled)!r} changed meanwhile; nothing was written. Try again")
    if as_json:
        print_json({"computation": timer.computation, **json_key(spelled), "cancelled": cancel})
    else:
        click.echo(f"the timer {cancel!r} of {timer.computation!r} is cancelled for {shown_key(spelled)!r}")
