"""`partitions keys`: the keys of a computation: all, parked, or those with the most waiting messages."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from celery_partitions.admin.documents import json_key, json_parked
from celery_partitions.admin.hot_keys import hot_keys
from celery_partitions.cli.context import computation_named, installation_in, shown_key
from celery_partitions.cli.output import print_json, print_table, refusals
from celery_partitions.cli.parked import print_parked
from celery_partitions.runtime.installation import Installation

#: How many hot keys are shown without `--limit`.
HOT_KEYS = 20


@click.command(short_help="List the keys of a computation: all, parked or hot.")
@click.argument("name")
@click.option(
    "--parked", is_flag=True, help="Only keys that wait after a failure: since when, attempt, error, waiting messages."
)
@click.option("--hot", is_flag=True, help="Keys with the most messages near the head of the queues.")
@click.option(
    "--sample",
    type=click.IntRange(1, 100_000),
    default=1000,
    show_default=True,
    help="With --hot: read this many of each partition's oldest messages.",
)
@click.option("--limit", type=click.IntRange(min=1), help="Show at most this many keys (default with --hot: 20).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON. Without --parked and --hot, print one JSON string per line.")
@click.pass_context
@refusals
def keys(
    context: click.Context, name: str, parked: bool, hot: bool, sample: int, limit: int | None, as_json: bool
) -> None:
    """List the keys of the computation NAME.

    Without an option, list every key that has a state, one per line, in no particular order. The cost grows with the number
    of keys; workers are not blocked.

    --hot reads the --sample oldest messages of each partition's queue (at most 4 MB of each), extracts their keys and counts
    them. It does not see messages behind the sample.
    """
    installation = installation_in(context)
    if parked and hot:
        raise click.UsageError("--parked and --hot cannot be combined")
    if hot:
        _hot(installation, name, sample, limit or HOT_KEYS, as_json)
    elif parked:
        computation_named(installation, name, with_state=False)
        found = [one for one in installation.group.parked_keys.all() if one.task in (None, name)]
        found = sorted(found, key=lambda one: one.since)[:limit]
        if as_json:
            print_json([json_parked(one) for one in found])
        else:
            print_parked(found, installation.group.now())
    else:
        computation = computation_named(installation, name, with_state=True)
        for number, key in enumerate(installation.group.states.keys(computation.name), start=1):
            click.echo(json.dumps(json_key(key)["key"]) if as_json else shown_key(key))
            if number == limit:
                break


def _hot(installation: Installation, name: str, sample: int, limit: int, as_json: bool) -> None:
    computation_named(installation, name, with_state=False)
    group = installation.group
    group.check()
    found = hot_keys(
        group.client,
        group.names,
        group.topology.served,
        installation.by_task,
        name,
        per_partition=sample,
        limit=limit,
    )
    if as_json:
        rows = [{**asdict(one), **json_key(one.key)} for one in found.keys]
        print_json({"sampled": found.sampled, "waiting": found.waiting, "keys": rows})
        return
    click.echo(f"{found.sampled:,} of {found.waiting:,} waiting messages sampled")
    print_table(
        ("key", "partition", "messages", "% of the sample"),
        [
            (shown_key(one.key), one.partition, one.messages, round(100 * one.messages / found.sampled))
            for one in found.keys
        ],
    )
