"""`partitions dead-letters`: messages that could not be taken, one by one or by what they have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import click
import msgspec

from celery_partitions.admin.dead_letters import DeadLetterPlace, died, fingerprint, grouped, raw_text
from celery_partitions.admin.documents import json_dead_letter
from celery_partitions.admin.wording import counted, retry_dead_letters
from celery_partitions.cli.context import confirm, installation_in, who, yes_option
from celery_partitions.cli.output import json_option, print_done, print_json, print_table, refusals, span
from celery_partitions.model.escaping import escape
from celery_partitions.runtime.installation import Installation
from celery_partitions.store.dead_letters import DeadLetter

#: Of an error, in a table.
MAX_ERROR_CHARACTERS = 80


@dataclass(frozen=True, slots=True)
class Choice:
    """Which dead letters a command is about."""

    ids: tuple[str, ...] = ()
    everything: bool = False
    reason: str | None = None
    fingerprint: str | None = None


def _narrowed(command: Any) -> Any:
    command = click.option("--reason", help="Only those with this reason.")(command)
    return click.option("--fingerprint", "wanted_fingerprint", metavar="FINGERPRINT", help="Only those of like failures.")(command)


def _chosen(command: Callable[..., None]) -> Any:
    command = click.argument("dead_letter_ids", metavar="[ID]...", nargs=-1)(command)
    command = click.option("--all", "everything", is_flag=True, help="Every dead letter.")(command)
    return _narrowed(command)


@click.group(name="dead-letters", short_help="Messages that could not be taken.")
def dead_letters() -> None:
    """Messages that could not be taken: list, show, retry, discard.

    Like failures (reason, computation, type of the error, place in the code) share a fingerprint of eight hex digits. A dead letter
    that is in its place tells of a message whose key is parked behind it.
    """


@dead_letters.command(name="list", short_help="One by one, or like failures together.")
@_narrowed
@click.option("--grouped", "in_groups", is_flag=True, help="Like failures together: how many, the newest, an example.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True, help="At most so many.")
@json_option
@click.pass_context
@refusals
def list_dead_letters(
    context: click.Context, reason: str | None, wanted_fingerprint: str | None, in_groups: bool, limit: int, as_json: bool
) -> None:
    """Dead letters with id, fingerprint, reason and error; --grouped: how many there are of each fingerprint."""
    installation = installation_in(context)
    dead_letters = _found(installation, Choice(reason=reason, fingerprint=wanted_fingerprint))
    if in_groups:
        _list_groups(dead_letters, installation.group.now(), limit, as_json)
        return
    shown = [dead_letter for dead_letter, _ in zip(dead_letters, range(limit), strict=False)]
    if as_json:
        print_json([json_dead_letter(one) for one in shown])
        return
    print_table(
        ("id", "fingerprint", "reason", "task", "key", "in place", "error"),
        [
            (
                one.id,
                fingerprint(one),
                one.reason,
                one.task or "-",
                one.key or "-",
                "yes" if one.in_place else "no",
                one.error[:MAX_ERROR_CHARACTERS],
            )
            for one in shown
        ],
        whole=("id", "fingerprint", "reason", "in place"),
    )


def _list_groups(dead_letters: Iterable[DeadLetter], now: float, limit: int, as_json: bool) -> None:
    groups = grouped(dead_letters)[:limit]
    if as_json:
        print_json(
            [
                {
                    "fingerprint": group.fingerprint,
                    "count": group.count,
                    "in_place": group.in_place,
                    "oldest_died_at": group.oldest_died_at,
                    "newest": json_dead_letter(group.newest),
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
                f"{span(now - group.newest.died_at)} ago",
                group.newest.id,
                group.newest.reason,
                f"{group.newest.task or '-'}: {group.newest.error[:MAX_ERROR_CHARACTERS]}",
            )
            for group in groups
        ],
        whole=("fingerprint", "count", "newest", "example", "reason"),
    )


@dead_letters.command(name="show", short_help="All of one: traceback, raw message.")
@click.argument("dead_letter_id", metavar="ID")
@json_option
@click.pass_context
@refusals
def show_dead_letter(context: click.Context, dead_letter_id: str, as_json: bool) -> None:
    """All of one dead letter: the reason, the traceback, the raw message."""
    dead_letter = next(_found(installation_in(context), Choice(ids=(dead_letter_id,))))
    if as_json:
        print_json(json_dead_letter(dead_letter))
        return
    for field, value in {**msgspec.structs.asdict(dead_letter), "fingerprint": fingerprint(dead_letter)}.items():
        if field not in ("trace", "raw"):
            click.echo(f"{field:>11}: {escape(str(value))}")
    if dead_letter.trace:
        click.echo("\n" + "\n".join(map(escape, dead_letter.trace.splitlines())))
    click.echo("\n" + escape(raw_text(dead_letter)))


@dead_letters.command(short_help="Try them again.")
@_chosen
@json_option
@click.pass_context
@refusals
def retry(
    context: click.Context,
    dead_letter_ids: tuple[str, ...],
    everything: bool,
    reason: str | None,
    wanted_fingerprint: str | None,
    as_json: bool,
) -> None:
    """Try dead letters again.

    One whose key is parked behind it is tried IN ITS PLACE. Any other goes to the END of the queue it died in, behind
    younger messages of its key: the order of that key is then another one.
    """
    installation = installation_in(context)
    dead_letters = _picked(installation, Choice(dead_letter_ids, everything, reason, wanted_fingerprint))
    facts, text = retry_dead_letters(installation.group.dead_letters, dead_letters, by=who())
    print_done(as_json, facts, text)


@dead_letters.command(short_help="Delete them for good.")
@_chosen
@yes_option
@json_option
@click.pass_context
@refusals
def discard(
    context: click.Context,
    dead_letter_ids: tuple[str, ...],
    everything: bool,
    reason: str | None,
    wanted_fingerprint: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters and their messages for good; a key that is parked behind one goes on with the next."""
    installation = installation_in(context)
    dead_letters = _picked(installation, Choice(dead_letter_ids, everything, reason, wanted_fingerprint))
    if dead_letters:
        confirm(f"Delete {counted(len(dead_letters), 'dead letter')} for good?", yes)
    gone = installation.group.dead_letters.discard(dead_letters, by=who())
    print_done(as_json, {"discarded": gone}, f"{gone} deleted")


def _picked(installation: Installation, choice: Choice) -> list[DeadLetterPlace]:
    if choice == Choice():
        raise click.UsageError("name the dead letters: ids, --reason REASON, --fingerprint FINGERPRINT, or --all")
    if choice.ids and choice != Choice(choice.ids):
        raise click.UsageError("ids stand alone: without --reason, --fingerprint and --all")
    found = list(map(DeadLetterPlace.of, _found(installation, choice)))
    return found if choice.ids else sorted(found, key=died)


def _found(installation: Installation, choice: Choice) -> Iterator[DeadLetter]:
    dead_letters = installation.group.dead_letters
    if choice.ids:
        for dead_letter_id in choice.ids:
            dead_letter = dead_letters.get(dead_letter_id)
            if dead_letter is None:
                raise click.ClickException(f"there is no dead letter {dead_letter_id!r}")
            yield dead_letter
        return
    for dead_letter in dead_letters.all():
        if choice.reason in (None, dead_letter.reason) and choice.fingerprint in (None, fingerprint(dead_letter)):
            yield dead_letter
