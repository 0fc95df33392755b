"""`partitions dead-letters`: list, show, retry and discard dead letters, one by one or grouped by failure."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from heapq import nlargest
from operator import attrgetter
from typing import Any

import click
import msgspec

from celery_partitions.admin.dead_letter_query import DeadLetterQuery, grouped
from celery_partitions.admin.dead_letters import DeadLetterPlace, DeadLetters, fingerprint, raw_text
from celery_partitions.admin.documents import json_dead_letter
from celery_partitions.admin.numbers import ago, counted
from celery_partitions.admin.retries import described
from celery_partitions.admin.wording import retry_dead_letters
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import print_done, print_facts, print_json, print_table, prints_facts
from celery_partitions.model.escaping import escape
from celery_partitions.store.dead_letters import DeadLetter

#: Length of an error message in a table.
MAX_ERROR_CHARACTERS = 80


def _narrowed(command: Callable[..., None]) -> Any:
    """Options that select dead letters; the command gets them as `query`."""

    @click.option("--reason", default="", help="Only dead letters with this reason.")
    @click.option("--fingerprint", default="", metavar="FINGERPRINT", help="Only dead letters with this fingerprint.")
    @click.option("--computation", default="", metavar="NAME", help="Only dead letters of this computation.")
    @functools.wraps(command)
    def run(*args: Any, reason: str, fingerprint: str, computation: str, **more: Any) -> None:
        command(*args, query=DeadLetterQuery(reason=reason, fingerprint=fingerprint, task=computation), **more)

    return run


def _chosen(command: Callable[..., None]) -> Any:
    """Ids, or what `_narrowed` takes, or --all; the command gets them as `picked`."""

    @click.argument("ids", metavar="[ID]...", nargs=-1)
    @click.option("--all", "everything", is_flag=True, help="Every dead letter.")
    @click.option("--limit", type=click.IntRange(min=1), metavar="N", help="Only the N oldest: try one first.")
    @_narrowed
    @functools.wraps(command)
    def run(context: click.Context, ids: tuple[str, ...], everything: bool, limit: int | None, query: DeadLetterQuery, **more: Any) -> None:
        if not (ids or everything or query.anything):
            raise click.UsageError("select the dead letters: pass ids, --reason, --fingerprint, --computation, or --all")
        if ids and (everything or query.anything):
            raise click.UsageError("ids cannot be combined with --reason, --fingerprint, --computation or --all")
        dead_letters = installation_in(context).group.dead_letters
        picked = [DeadLetterPlace.of(_named(dead_letters, one)) for one in ids] if ids else query.places(dead_letters)
        chosen = {"ids": len(ids)} if ids else query.fields
        command(dead_letters, picked[:limit], chosen={**chosen, **({"limit": limit} if limit else {})}, **more)

    return run


@click.group(name="dead-letters", short_help="List, retry or discard messages that were given up.")
def dead_letters() -> None:
    """List, show, retry and discard dead letters: messages that were given up.

    Similar failures (same reason, computation, error type and place in the code) share a fingerprint of eight hex digits.
    A dead letter that is "in place" still holds its message's position in the order: the key is parked behind it.
    """


@dead_letters.command(name="list", short_help="List dead letters, or groups of similar ones.")
@click.option("--grouped", "in_groups", is_flag=True, help="Group similar failures: count, newest, an example.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show at most this many rows.")
@prints_facts
@_narrowed
def list_dead_letters(context: click.Context, query: DeadLetterQuery, in_groups: bool, limit: int, as_json: bool) -> None:
    """List dead letters with id, age, fingerprint, reason, task, key and error, newest first. With --grouped, count them by fingerprint."""
    installation = installation_in(context)
    if in_groups:
        _list_groups(installation.group.dead_letters, query, installation.group.now(), limit, as_json)
        return
    shown = nlargest(limit, filter(query.fits, installation.group.dead_letters.all()), key=attrgetter("died_at"))
    if as_json:
        print_json([json_dead_letter(one) for one in shown])
        return
    now = installation.group.now()
    print_table(
        ("id", "died", "fingerprint", "reason", "task", "key", "in place", "error"),
        [
            (
                one.id,
                ago(one.died_at, now),
                fingerprint(one),
                one.reason,
                one.task or "-",
                one.key or "-",
                "yes" if one.in_place else "no",
                one.error[:MAX_ERROR_CHARACTERS],
            )
            for one in shown
        ],
        whole=("id", "died", "fingerprint", "reason", "in place"),
    )


def _list_groups(dead_letters: DeadLetters, query: DeadLetterQuery, now: float, limit: int, as_json: bool) -> None:
    groups = grouped(filter(query.fits, dead_letters.all()))[:limit]
    if as_json:
        print_json(
            [
                {
                    "fingerprint": group.fingerprint,
                    "count": group.count,
                    "in_place": group.in_place,
                    "oldest_died_at": group.oldest_died_at,
                    "newest": next(map(json_dead_letter, dead_letters.whole(group.newest)), None),
                }
                for group in groups
            ]
        )
        return
    print_table(
        ("fingerprint", "count", "newest", "example", "reason", "task: error"),
        [
            (
                group.fingerprint,
                group.count,
                ago(group.newest_died_at, now),
                group.newest[0].id,
                group.reason,
                f"{group.task or '-'}: {group.error[:MAX_ERROR_CHARACTERS]}",
            )
            for group in groups
        ],
        whole=("fingerprint", "count", "newest", "example", "reason"),
    )


@dead_letters.command(name="show", short_help="Show one with its traceback and raw message.")
@click.argument("dead_letter_id", metavar="ID")
@prints_facts
def show_dead_letter(context: click.Context, dead_letter_id: str, as_json: bool) -> None:
    """Show one dead letter with its reason, traceback and raw message."""
    dead_letter = _named(installation_in(context).group.dead_letters, dead_letter_id)
    if as_json:
        print_json(json_dead_letter(dead_letter))
        return
    for field, value in {**msgspec.structs.asdict(dead_letter), "fingerprint": fingerprint(dead_letter)}.items():
        if field not in ("trace", "raw"):
            click.echo(f"{field:>11}: {escape(str(value))}")
    if dead_letter.trace:
        click.echo("\n" + "\n".join(map(escape, dead_letter.trace.splitlines())))
    click.echo("\n" + escape(raw_text(dead_letter)))


@dead_letters.command(short_help="Retry dead letters.")
@click.option("--yes", is_flag=True, help="Accepted, as by discard. Retrying asks nothing.")
@prints_facts
@_chosen
def retry(dead_letters: DeadLetters, picked: Sequence[DeadLetterPlace], chosen: dict[str, Any], yes: bool, as_json: bool) -> None:
    """Retry dead letters, in place where possible.

    If the key is parked behind the dead letter, the message is retried IN PLACE and the order of its key is kept. Any other
    message goes to the END of the queue it came from, behind newer messages of its key. This changes the order of that key.
    """
    facts, text = retry_dead_letters(dead_letters, picked, chosen, by=who())
    print_done(as_json, facts, text)


@dead_letters.command(short_help="The last retries: how far, and how many failed again.")
@prints_facts
def retries(context: click.Context, as_json: bool) -> None:
    """Show the retries of the last day, newest first: when, who, how the dead letters were chosen, how many of them were retried so far, and how
    many became dead letters again since."""
    group = installation_in(context).group
    died = ((one.died_at, one.message_id) for one in group.dead_letters.all() if one.message_id)
    found, now = group.dead_letters.retries.last(died), group.now()
    rows = [
        (ago(one["at"], now), one["by"], described(one["query"]), f"{one['done']:,} of {one['chosen']:,}", f"{one['failed_again']:,}")
        for one in found
    ]
    print_facts(as_json, found, ("when", "by", "chosen", "retried", "failed again"), rows, whole=("when", "retried", "failed again"))


@dead_letters.command(short_help="Delete dead letters permanently.")
@yes_option
@prints_facts
@_chosen
def discard(dead_letters: DeadLetters, picked: Sequence[DeadLetterPlace], chosen: dict[str, Any], yes: bool, as_json: bool) -> None:
    """Delete dead letters and their messages permanently. A key parked behind one continues with its next message."""
    if picked:
        confirm(f"Delete {counted(len(picked), 'dead letter')} permanently?", yes)
    gone = dead_letters.discard(picked, by=who())
    print_done(as_json, {"discarded": gone}, f"{gone} deleted")


def _named(dead_letters: DeadLetters, dead_letter_id: str) -> DeadLetter:
    dead_letter = dead_letters.get(dead_letter_id)
    if dead_letter is None:
        raise click.ClickException(f"there is no dead letter {dead_letter_id!r}")
    return dead_letter
