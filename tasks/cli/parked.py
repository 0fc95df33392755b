"""`partitions parked`: list, retry, skip and discard the failed messages of parked keys."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import click

from celery_partitions.admin.documents import json_parked
from celery_partitions.admin.numbers import counted, span
from celery_partitions.admin.parked_keys import Answer, ParkedKeys
from celery_partitions.admin.wording import refusal
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
from celery_partitions.cli.output import print_done, print_facts, prints_facts
from celery_partitions.model.effects import ParkedKey
from celery_partitions.model.escaping import escape

#: Length of an error message in a table.
MAX_ERROR_CHARACTERS = 60


@click.group(short_help="List keys that wait after a failure; retry or skip.")
def parked() -> None:
    """List, retry, skip and discard parked keys: keys whose messages wait in a mailbox of their own, in order.

    A key waits after a failure (why: retry or hold); the first message in its mailbox is the one that failed. Or the call of its first
    message is in flight (why: running), or waits for its rate limit (why: rate) or for more messages of a batch (why: gather), or the key
    has so much work that it takes turns with others (why: ready); there is nothing to do about that. Only that key waits, not its
    partition.
    """


def print_parked(as_json: bool, found: Sequence[ParkedKey], now: float) -> None:
    """Print parked keys. `now`: seconds, by the server's clock."""
    print_facts(
        as_json,
        list(map(json_parked, found)),
        ("key", "task", "holds", "partition", "waiting", "why", "for", "try", "due", "error"),
        [
            (
                shown_key(one.of_key),
                one.task or "-",
                one.holds,
                one.partition,
                one.waiting,
                one.why,
                span(now - one.since) if one.since else "-",
                one.attempt,
                "-" if one.why == "running" else _due(one.due, now),
                one.error[:MAX_ERROR_CHARACTERS],
            )
            for one in found
        ],
        whole=("holds", "partition", "waiting", "why", "for", "try", "due"),
    )


def _due(due: float | None, now: float) -> str:
    if due is None:
        return "held"
    return f"in {span(due - now)}" if due > now else "now"


@parked.command(name="list", short_help="List parked keys, longest waiting first.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="Show at most this many keys.")
@prints_facts
def list_parked(context: click.Context, limit: int, as_json: bool) -> None:
    """List the parked keys of all partitions, longest waiting first.

    Columns: the task of the first message, what waits (all messages of the key, or only those of this computation), waiting messages, why, how long, attempt, when the next attempt is due ("held": when an operator acts), and the error.
    """
    group = installation_in(context).group
    found = sorted(group.parked_keys.all(), key=lambda one: one.since)[:limit]
    print_parked(as_json, found, group.now())


def _chosen(command: Callable[..., None]) -> Any:
    """Keys, or --all; the command gets the group's parked keys, and those that were chosen."""

    @click.argument("typed", metavar="[KEY]...", nargs=-1, type=ANY_BYTES)
    @base64_option
    @click.option("--all", "everything", is_flag=True, help="Every parked key.")
    @functools.wraps(command)
    def run(context: click.Context, typed: tuple[str, ...], in_base64: bool, everything: bool, **more: Any) -> None:
        keys = installation_in(context).group.parked_keys
        command(keys, _picked(keys, typed, in_base64, everything), **more)

    return run


@parked.command(short_help="Retry the failed message now, in place.")
@click.option("--yes", is_flag=True, help="Accepted, as by skip. Retrying asks nothing.")
@prints_facts
@_chosen
def retry(keys: ParkedKeys, chosen: Sequence[ParkedKey], yes: bool, as_json: bool) -> None:
    """Retry each KEY's failed message now, in place. Its count of attempts starts again from zero."""
    count = _each(chosen, lambda one: keys.retry(one.key, by=who()))
    print_done(as_json, {"retried": count}, f"{counted(count, 'parked key')} will be retried now")


@parked.command(short_help="Make the failed message a dead letter; continue.")
@yes_option
@prints_facts
@_chosen
def skip(keys: ParkedKeys, chosen: Sequence[ParkedKey], yes: bool, as_json: bool) -> None:
    """Make each KEY's failed message a dead letter, and continue with the key's next message.

    The dead letter can be retried later, but it then runs after newer messages of its key.
    """
    confirm(f"Skip the failed message of {_named(chosen)}? The key continues without it.", yes)
    count = _each(chosen, lambda one: keys.skip(one.key, by=who(), of=one))
    print_done(as_json, {"skipped": count}, f"{counted(count, 'message')} moved to the dead letters; the keys continue")


@parked.command(short_help="Delete the failed message; continue.")
@yes_option
@prints_facts
@_chosen
def discard(keys: ParkedKeys, chosen: Sequence[ParkedKey], yes: bool, as_json: bool) -> None:
    """Delete each KEY's failed message permanently, and continue with the key's next message."""
    confirm(f"Delete the failed message of {_named(chosen)} permanently?", yes)
    count = _each(chosen, lambda one: keys.discard(one.key, by=who(), of=one))
    print_done(as_json, {"discarded": count}, f"{counted(count, 'message')} deleted; the keys continue")


def _picked(keys: ParkedKeys, typed: tuple[str, ...], in_base64: bool, everything: bool) -> list[ParkedKey]:
    if bool(typed) == everything:
        raise click.UsageError("name the keys, or pass --all")
    if everything:
        return [one for one in keys.all() if not one.waits_its_turn]
    chosen = []
    for key in (typed_key(one, in_base64) for one in typed):
        found = keys.of_key(key)
        if not found:
            raise click.ClickException(f"the key {shown_key(key)!r} is not parked")
        chosen += found
    return chosen


def _named(chosen: Sequence[ParkedKey]) -> str:
    if len(chosen) != 1:
        return counted(len(chosen), "key")
    (one,) = chosen
    return f"the key {shown_key(one.of_key)!r} ({escape(one.error)[:MAX_ERROR_CHARACTERS]})"


def _each(chosen: Sequence[ParkedKey], act: Callable[[ParkedKey], Answer]) -> int:
    """Apply `act` to each key and return how many succeeded. Among several, a key that changed meanwhile is skipped; a single key
    that changed is an error."""
    count = 0
    for one in chosen:
        answer = act(one)
        count += answer == "ok"
        if answer != "ok" and len(chosen) == 1:
            raise click.ClickException(refusal(answer, shown_key(one.of_key)))
    return count
