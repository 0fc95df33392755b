"""The commands of `celery -A APP partitions`."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from typing import Any

import click
import msgspec

from tasks.cli.files import read_messages
from tasks.cli.output import json_option, plain, print_json, print_table, refusals
from tasks.cli.stored import stored
from tasks.model.computation import Computation
from tasks.model.keys import partition_of, spell_key
from tasks.producer.bulk import send_many
from tasks.producer.declarations import installation_of
from tasks.producer.installation import Installation
from tasks.store.commits import DeadLetter
from tasks.store.dead_letters import raw_text


@click.group(name="partitions")
@click.pass_context
def partitions(context: click.Context) -> None:
    """See and work the partitions: status, states, keys, dead letters, sending files."""


partitions.add_command(stored)


def _installation(context: click.Context) -> Installation:
    app = context.obj.app
    app.finalize(auto=True)
    app.loader.import_default_modules()
    found = installation_of(app)
    if found is None:
        raise click.ClickException(
            f"the app {app.main!r} has no partitions: call tasks.install(app) where it is made, or use -A tasks"
        )
    return found


def _computation(installation: Installation, name: str, *, with_state: bool) -> Computation:
    found = installation.computations.get(name)
    if found is None:
        known = ", ".join(repr(one) for one in sorted(installation.computations)) or "none"
        raise click.ClickException(f"no computation is named {name!r}; this app has: {known}")
    if with_state and found.state is None:
        raise click.ClickException(f"the computation {name!r} has no state")
    return found


@partitions.command()
@json_option
@click.pass_context
@refusals
def status(context: click.Context, as_json: bool) -> None:
    """Who owns each partition and the ingress, and how far behind it is."""
    rows = _installation(context).group.status()
    if as_json:
        print_json(rows)
        return
    print_table(
        ("queue", "owner", "length", "processed", "keys", "parked", "dead", "delayed", "paused"),
        [
            (
                r.queue,
                r.owner or "-",
                r.length,
                r.processed,
                r.keys,
                r.parked,
                r.dead,
                r.delayed,
                "yes" if r.paused else "no",
            )
            for r in rows
        ],
    )


@partitions.command()
@click.argument("name")
@click.argument("key")
@json_option
@click.pass_context
@refusals
def state(context: click.Context, name: str, key: str, as_json: bool) -> None:
    """The state of KEY in the state computation NAME, as last committed."""
    installation = _installation(context)
    computation = _computation(installation, name, with_state=True)
    found = installation.group.states.get(computation, key)
    if found is None:
        raise click.ClickException(f"{name!r} has no state for the key {key!r}")
    partition = partition_of(key, installation.settings.partitions)
    if as_json:
        print_json({"computation": name, "key": spell_key(key), "partition": partition, "state": plain(found)})
        return
    click.echo(f"{name}, key {key}, partition {partition}: {type(found).__qualname__}")
    shown = plain(found)
    for field, value in shown.items() if isinstance(shown, dict) else [("value", shown)]:
        click.echo(f"  {field} = {value!r}")


@partitions.command()
@click.argument("name")
@click.option("--limit", type=click.IntRange(min=1), help="At most so many.")
@click.option("--json", "as_json", is_flag=True, help="Print each key as a JSON string, one a line.")
@click.pass_context
@refusals
def keys(context: click.Context, name: str, limit: int | None, as_json: bool) -> None:
    """The keys of the state computation NAME, one a line, as they are scanned."""
    installation = _installation(context)
    computation = _computation(installation, name, with_state=True)
    for number, key in enumerate(installation.group.states.keys(computation.name), start=1):
        shown = key.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
        click.echo(json.dumps(shown) if as_json else shown)
        if number == limit:
            break


@partitions.command()
@click.argument("name")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="By the file's name unless said.")
@click.option("--progress/--no-progress", default=None, help="A progress bar; by default on a terminal.")
@json_option
@click.pass_context
@refusals
def send(context: click.Context, name: str, file: str, form: str | None, progress: bool | None, as_json: bool) -> None:
    """Send each row of FILE (CSV with a header, or JSON lines; - for standard input) as a message of NAME."""
    installation = _installation(context)
    computation = _computation(installation, name, with_state=False)
    sent = send_many(installation, computation, read_messages(file, form, computation), progress)
    if as_json:
        print_json({"sent": sent})
    else:
        click.echo(f"{sent:,} messages sent to {name!r}")


@partitions.group(name="dead-letters")
def dead_letters() -> None:
    """Messages that could not be taken: list, show, retry, discard."""


@dead_letters.command(name="list")
@click.option("--reason", help="Only those with this reason.")
@click.option("--limit", type=click.IntRange(min=1), default=100, show_default=True)
@json_option
@click.pass_context
@refusals
def list_letters(context: click.Context, reason: str | None, limit: int, as_json: bool) -> None:
    """Dead letters with id, reason and error."""
    letters = _found(_installation(context), (), reason)
    shown = [letter for letter, _ in zip(letters, range(limit), strict=False)]
    if as_json:
        print_json([{**msgspec.structs.asdict(one), "message": raw_text(one)} for one in shown])
        return
    print_table(
        ("id", "reason", "task", "key", "attempts", "error"),
        [(one.id, one.reason, one.task or "-", one.key or "-", one.attempts, one.error[:80]) for one in shown],
    )


@dead_letters.command(name="show")
@click.argument("letter_id", metavar="ID")
@json_option
@click.pass_context
@refusals
def show_letter(context: click.Context, letter_id: str, as_json: bool) -> None:
    """All of one dead letter: the reason, the traceback, the raw message."""
    letter = next(_found(_installation(context), (letter_id,), None))
    if as_json:
        print_json({**msgspec.structs.asdict(letter), "message": raw_text(letter)})
        return
    for field, value in msgspec.structs.asdict(letter).items():
        if field not in ("trace", "raw"):
            click.echo(f"{field:>10}: {value}")
    if letter.trace:
        click.echo("\n" + letter.trace)
    click.echo("\n" + raw_text(letter))


def _chosen(command: Any) -> Any:
    command = click.argument("letter_ids", metavar="[ID]...", nargs=-1)(command)
    command = click.option("--all", "everything", is_flag=True, help="Every dead letter.")(command)
    return click.option("--reason", help="Every dead letter with this reason.")(command)


@dead_letters.command()
@_chosen
@json_option
@click.pass_context
@refusals
def retry(
    context: click.Context, letter_ids: tuple[str, ...], everything: bool, reason: str | None, as_json: bool
) -> None:
    """Put dead letters back at the END of the queue they died in, behind younger messages of their key."""
    installation = _installation(context)
    letters = _picked(installation, letter_ids, everything, reason)
    back = installation.group.dead_letters.retry(letters)
    _say(as_json, {"retried": back}, f"{back} put back, each at the end of its queue")


@dead_letters.command()
@_chosen
@click.option("--yes", is_flag=True, help="Don't ask.")
@json_option
@click.pass_context
@refusals
def discard(
    context: click.Context,
    letter_ids: tuple[str, ...],
    everything: bool,
    reason: str | None,
    yes: bool,
    as_json: bool,
) -> None:
    """Delete dead letters for good."""
    installation = _installation(context)
    letters = _picked(installation, letter_ids, everything, reason)
    if not yes:
        click.confirm(f"Delete {len(letters)} dead letters for good?", abort=True, err=True)
    gone = installation.group.dead_letters.discard(letters)
    _say(as_json, {"discarded": gone}, f"{gone} deleted")


def _picked(
    installation: Installation, letter_ids: Iterable[str], everything: bool, reason: str | None
) -> list[DeadLetter]:
    if not letter_ids and not everything and reason is None:
        raise click.UsageError("name the dead letters: ids, --reason REASON, or --all")
    return list(_found(installation, letter_ids, reason))


def _found(installation: Installation, letter_ids: Iterable[str], reason: str | None) -> Iterator[DeadLetter]:
    letters = installation.group.dead_letters
    if letter_ids:
        for letter_id in letter_ids:
            letter = letters.get(letter_id)
            if letter is None:
                raise click.ClickException(f"there is no dead letter {letter_id!r}")
            yield letter
        return
    for letter in letters.all():
        if reason is None or letter.reason == reason:
            yield letter


def _say(as_json: bool, facts: dict[str, Any], text: str) -> None:
    if as_json:
        print_json(facts)
    else:
        click.echo(text)
