"""`partitions parked`: keys that wait after a failure, and what can be done about one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import click

from celery_partitions.admin.documents import json_parked
from celery_partitions.admin.numbers import counted, span
from celery_partitions.admin.parked_keys import Answer, ParkedKey, ParkedKeys
from celery_partitions.cli.context import (
    ANY_BYTES,
    base64_option,
    confirm,
    installation_in,
    shown_key,
    typed_key,
    who,
    yes_option,
)
from celery_partitions.cli.output import json_option, print_done, print_json, print_table, refusals
from celery_partitions.model.escaping import escape

#: Of an error, in a table.
MAX_ERROR_CHARACTERS = 60


@click.group(short_help="Keys that wait after a failure.")
def parked() -> None:
    """Keys that wait after a failure: list, retry, skip, discard.

    Only the key waits: its messages stand in a mailbox of its own, in order, and the first of them is the one that failed.
    """


def print_parked(found: Sequence[ParkedKey], now: float) -> None:
    """The table of parked keys. `now`: seconds, by the server's clock."""
    print_table(
        ("key", "partition", "waiting", "for", "try", "due", "error"),
        [
            (
                shown_key(one.key),
                one.partition,
                one.waiting,
                span(now - one.fact.since) if one.fact.since else "-",
                one.fact.attempt,
                _due(one.fact.due, now),
                one.fact.error[:MAX_ERROR_CHARACTERS],
            )
            for one in found
        ],
        whole=("partition", "waiting", "for", "try", "due"),
    )


def _due(due: float | None, now: float) -> str:
    if due is None:
        return "held"
    return f"in {span(due - now)}" if due > now else "now"


@parked.command(name="list", short_help="Parked keys, the longest waiting first.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@json_option
@click.pass_context
@refusals
def list_parked(context: click.Context, limit: int, as_json: bool) -> None:
    """Parked keys of all partitions, the longest waiting first: messages waiting, since when, which try, when it is due
    (or held, until an operator acts), and the error."""
    group = installation_in(context).group
    found = sorted(group.parked_keys.all(), key=lambda one: one.fact.since)[:limit]
    if as_json:
        print_json([json_parked(one) for one in found])
    else:
        print_parked(found, group.now())


def _chosen(command: Any) -> Any:
    command = click.argument("typed", metavar="[KEY]...", nargs=-1, type=ANY_BYTES)(command)
    command = base64_option(command)
    return click.option("--all", "everything", is_flag=True, help="Every parked key.")(command)


@parked.command(short_help="Try them now, in their place.")
@_chosen
@json_option
@click.pass_context
@refusals
def retry(context: click.Context, typed: tuple[str, ...], in_base64: bool, everything: bool, as_json: bool) -> None:
    """Try each KEY's first message now, in its place, with all of its retries before it again."""
    keys = installation_in(context).group.parked_keys
    chosen = _picked(keys, typed, in_base64, everything)
    count = _each(chosen, lambda one: keys.retry(one.key, by=who()))
    print_done(as_json, {"retried": count}, f"{counted(count, 'parked key')} tried now")


@parked.command(short_help="The failed message to the dead letters; the key goes on.")
@_chosen
@yes_option
@json_option
@click.pass_context
@refusals
def skip(
    context: click.Context, typed: tuple[str, ...], in_base64: bool, everything: bool, yes: bool, as_json: bool
) -> None:
    """Put each KEY's first message, the one that failed, with the dead letters, and let the key go on with the next one.

    The message can be sent again later, but then it comes behind younger messages of its key.
    """
    keys = installation_in(context).group.parked_keys
    chosen = _picked(keys, typed, in_base64, everything)
    confirm(f"Skip the failed message of {_named(chosen)}? The key goes on without it.", yes)
    count = _each(chosen, lambda one: keys.skip(one.key, by=who(), of=one.fact))
    print_done(as_json, {"skipped": count}, f"{counted(count, 'message')} put with the dead letters; the keys go on")


@parked.command(short_help="Delete the failed message; the key goes on.")
@_chosen
@yes_option
@json_option
@click.pass_context
@refusals
def discard(
    context: click.Context, typed: tuple[str, ...], in_base64: bool, everything: bool, yes: bool, as_json: bool
) -> None:
    """Delete each KEY's first message, the one that failed, for good, and let the key go on with the next one."""
    keys = installation_in(context).group.parked_keys
    chosen = _picked(keys, typed, in_base64, everything)
    confirm(f"Delete the failed message of {_named(chosen)} for good?", yes)
    count = _each(chosen, lambda one: keys.discard(one.key, by=who(), of=one.fact))
    print_done(as_json, {"discarded": count}, f"{counted(count, 'message')} deleted; the keys go on")


def _picked(keys: ParkedKeys, typed: tuple[str, ...], in_base64: bool, everything: bool) -> list[ParkedKey]:
    if bool(typed) == everything:
        raise click.UsageError("name the keys, or say --all")
    if everything:
        return list(keys.all())
    chosen = []
    for key in (typed_key(one, in_base64) for one in typed):
        found = keys.get(key)
        if found is None:
            raise click.ClickException(f"the key {shown_key(key)!r} is not parked")
        chosen.append(found)
    return chosen


def _named(chosen: Sequence[ParkedKey]) -> str:
    if len(chosen) != 1:
        return counted(len(chosen), "key")
    (one,) = chosen
    return f"the key {shown_key(one.key)!r} ({escape(one.fact.error)[:MAX_ERROR_CHARACTERS]})"


def _each(chosen: Sequence[ParkedKey], act: Callable[[ParkedKey], Answer]) -> int:
    """Do it to each; returns to how many. Of several, those that changed meanwhile are left out; one alone is refused."""
    count = 0
    for one in chosen:
        answer = act(one)
        count += answer == "ok"
        if answer != "ok" and len(chosen) == 1:
            raise click.ClickException(f"the key {shown_key(one.key)!r} {_REFUSALS[answer]}; nothing was done")
    return count


_REFUSALS: dict[Answer, str] = {
    "not-parked": "is parked no more",
    "not-failed": "waits with a message that has not been tried yet",
    "changed": "changed meanwhile: look again",
}
