"""`partitions keys`: the keys of a computation: all, parked, or those with the most waiting messages."""

from __future__ import annotations

import json
from dataclasses import asdict

import click

from celery_partitions.admin.documents import json_key
from celery_partitions.admin.hot_keys import hot_keys
from celery_partitions.admin.key_search import PAGE_KEYS, find_keys
from celery_partitions.cli.context import computation_named, installation_in, shown_key
from celery_partitions.cli.output import print_json, print_table, refusals
from celery_partitions.cli.parked import print_parked
from celery_partitions.model.escaping import escape
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
@click.option("--prefix", metavar="TEXT", help="Only keys that begin with TEXT. Stops after about --limit keys (default: 50), and says how to continue.")
@click.option("--after", metavar="PLACE", default="", help="With --prefix: continue where the last search stopped.")
@click.option("--limit", type=click.IntRange(min=1), help="Show at most this many keys (default with --hot: 20).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON. Without --parked and --hot, print one JSON string per line.")
@refusals
def keys(
    context: click.Context, name: str, parked: bool, hot: bool, sample: int, prefix: str | None, after: str, limit: int | None, as_json: bool
) -> None:
    """List the keys of the computation NAME.

    Without an option, list every key that has a state, one per line, in no particular order. The cost grows with the number
    of keys; workers are not blocked.

    --prefix reads states page by page, so it may take long to find few keys among many. Ctrl-C ends it.

    --hot reads the --sample oldest messages of each partition's queue (at most 4 MB of each), extracts their keys and counts
    them. It does not see messages behind the sample.
    """
    installation = installation_in(context)
    if sum((parked, hot, prefix is not None)) > 1:
        raise click.UsageError("--parked, --hot and --prefix cannot be combined")
    if prefix is not None:
        _search(installation, computation_named(installation, name, with_state=True).name, prefix, after, limit or PAGE_KEYS, as_json)
        return
    if hot:
        _hot(installation, name, sample, limit or HOT_KEYS, as_json)
    elif parked:
        computation_named(installation, name, with_state=False)
        found = [one for one in installation.group.parked_keys.all() if one.task in (None, name)]
        print_parked(as_json, sorted(found, key=lambda one: one.since)[:limit], installation.group.now())
    else:
        computation = computation_named(installation, name, with_state=True)
        for number, key in enumerate(installation.group.states.keys(computation.name), start=1):
            click.echo(json.dumps(json_key(key)["key"]) if as_json else shown_key(key))
            if number == limit:
                break


def _search(installation: Installation, name: str, prefix: str, after: str, limit: int, as_json: bool) -> None:
    keys: list[dict[str, str]] = []
    more: str | None = after
    while more is not None and len(keys) < limit:
        found = find_keys(installation.group, name, prefix, more, limit - len(keys))
        keys += found["keys"]
        more = found["more"]
    if as_json:
        print_json({"keys": keys, "more": more})
        return
    for key in keys:
        click.echo(escape(key["key"]))
    if more is not None:
        click.echo(f"there may be more: add --after {more}", err=True)


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
