"""`partitions timers`: the timers of a key or a partition. `partitions expire`: when the keys of a computation with `ttl=` expire."""

from __future__ import annotations

from dataclasses import asdict

import click

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.documents import json_key
from celery_partitions.admin.expiry import count_expiring, start_expiry
from celery_partitions.admin.numbers import utc
from celery_partitions.admin.state_json import text_of
from celery_partitions.admin.timers import KeyTimer, cancel_timer, timers_in_partition, timers_of
from celery_partitions.cli.context import (
    base64_option,
    computation_named,
    confirm,
    installation_in,
    shown_key,
    typed_key,
    who,
    yes_option,
)
from celery_partitions.cli.output import print_done, print_facts, prints_facts
from celery_partitions.runtime.installation import Installation

COLUMNS = ("computation", "timer", "due", "repeats", "message")


@click.command(short_help="Show the timers of a key or a partition, or cancel one.")
@click.argument("key", metavar="[KEY]", required=False)
@click.option("--partition", type=click.IntRange(0), metavar="N", help="The timers of all keys of partition N, those that are due first first.")
@click.option("--start", type=click.IntRange(0), default=0, metavar="N", help="With --partition: skip the first N delayed messages and timers.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, metavar="N", help="With --partition: look at N of them.  [default: 100]")
@click.option("--cancel", metavar="NAME", help="Cancel the timer of this name; asks first.")
@click.option("--computation", metavar="NAME", help="Only timers of this computation.")
@base64_option
@yes_option
@prints_facts
def timers(
    context: click.Context,
    key: str | None,
    partition: int | None,
    start: int,
    limit: int,
    cancel: str | None,
    computation: str | None,
    in_base64: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Show when the timers of KEY, or of a partition, are due (UTC), in the computations of this app.

    A cancelled timer does not fire, also if its message is on the queue already. The audit records who cancelled it.
    """
    installation = installation_in(context)
    if (key is None) == (partition is None) or (partition is not None and cancel is not None):
        raise click.UsageError("name a KEY, or --partition without --cancel")
    if key is None:
        _show_partition(installation, str(partition), start, limit, computation, as_json)
        return
    spelled, group = typed_key(key, in_base64), installation.group
    wanted = [one for name, one in sorted(installation.computations.items()) if computation in (None, name)]
    found = timers_of(group.states, wanted, spelled)
    if cancel is None:
        print_facts(as_json, [{**asdict(one), **json_key(spelled)} for one in found], COLUMNS, list(map(_row, found)))
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
    facts = {"computation": timer.computation, **json_key(spelled), "cancelled": cancel}
    print_done(as_json, facts, f"the timer {cancel!r} of {timer.computation!r} is cancelled for {shown_key(spelled)!r}")


def _row(one: KeyTimer) -> tuple[str, ...]:
    return one.computation, one.name or "(expiry)", utc(one.due), one.repeats or "", text_of(one.message)


def _show_partition(installation: Installation, partition: str, start: int, limit: int, computation: str | None, as_json: bool) -> None:
    group = installation.group
    if int(partition) >= group.topology.served:
        raise click.BadParameter(f"there are {group.topology.served} partitions, numbered from 0", param_hint="--partition")
    found, following = timers_in_partition(group.states, installation.by_task, partition, start, limit)
    found = [one for one in found if computation in (None, one.timer.computation)]
    facts = {"timers": [{**json_key(one.key), **asdict(one.timer), "rings": one.rings} for one in found], "next": following}
    print_facts(as_json, facts, ("key", *COLUMNS), [(shown_key(one.key), *_row(one.timer)) for one in found])
    if following is not None and not as_json:
        click.echo(f"There is more: --start {following}")


@click.command(short_help="Count the keys that expire; start the time of old ones.")
@click.argument("name")
@click.option("--dry-run", is_flag=True, help="Only count.")
@yes_option
@prints_facts
def expire(context: click.Context, name: str, dry_run: bool, yes: bool, as_json: bool) -> None:
    """Count when the keys of the computation NAME expire. It must have a `ttl=`.

    Keys that were stored before the computation had one do not expire until they are used. Without --dry-run, their time starts now: each gets
    a message, so a key expires a whole `ttl=` later. The cost grows with the number of keys; workers are not blocked.
    """
    installation = installation_in(context)
    group, computation = installation.group, computation_named(installation, name, with_state=True)
    found = count_expiring(group.states, computation, group.now())
    started = 0
    if found.without and not dry_run:
        confirm(f"Start the time of {found.without:,} keys of {name!r}?", yes)
        started = start_expiry(group.states, Audit(group.client, group.names), computation, found, by=who())
    counts = {what: count for what, count in asdict(found).items() if what != "waiting"} | {"started": started}
    columns = ("keys", "due", "within a day", "later", "without", "unreadable", "started")
    print_facts(as_json, {"computation": name, **counts}, columns, [tuple(counts.values())])
