"""`partitions expire`: when the keys of a computation with `ttl=` expire."""

from __future__ import annotations

from dataclasses import asdict

import click

from celery_partitions.admin.audit import Audit
from celery_partitions.admin.expiry import count_expiring, start_expiry
from celery_partitions.cli.context import computation_named, confirm, installation_in, who, yes_option
from celery_partitions.cli.output import print_facts, prints_facts


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
