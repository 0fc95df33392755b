"""`partitions send`: send the rows of a file as messages."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path
from typing import BinaryIO

import click

from celery_partitions.admin.numbers import counted
from celery_partitions.cli.context import computation_named, installation_in
from celery_partitions.cli.files import Rows
from celery_partitions.cli.output import print_done, prints_facts
from celery_partitions.model.errors import MessageError
from celery_partitions.model.escaping import escape_lines
from celery_partitions.producer.bulk import SendInterrupted, WhenFull, send_many

#: How many refused rows are named on standard error.
MAX_NAMED = 20


@click.command(short_help="Send the rows of a CSV or JSON lines file.")
@click.argument("name")
@click.argument("file", type=click.Path(allow_dash=True, dir_okay=False))
@click.option("--format", "form", type=click.Choice(["csv", "jsonl"]), help="Format of FILE. Default: by the file's extension.")
@click.option("--progress/--no-progress", default=None, help="Show a progress bar. Default: only on a terminal.")
@click.option(
    "--when-full",
    type=click.Choice(["block", "raise"]),
    default="block",
    show_default=True,
    help="When a queue has reached PARTITIONS_QUEUE_MAX_LENGTH: wait for room, or stop with an error.",
)
@click.option("--dry-run", is_flag=True, help="Check all rows, and send nothing.")
@click.option("--skip", type=click.IntRange(min=0), default=0, metavar="N", help="Leave out the first N rows, which were sent before.")
@click.option(
    "--on-error",
    type=click.Choice(["stop", "skip"]),
    default="stop",
    show_default=True,
    help="At a row that cannot be sent: stop, or continue and write it to --refused.",
)
@click.option("--refused", type=click.Path(dir_okay=False), help="The file for refused rows. Default: FILE.refused.")
@click.option("--ids", metavar="PREFIX", help="Give each message the id PREFIX:ROW, so that deduplicate= drops rows that are sent again.")
@prints_facts
def send(
    context: click.Context,
    name: str,
    file: str,
    form: str | None,
    progress: bool | None,
    when_full: WhenFull,
    dry_run: bool,
    skip: int,
    on_error: str,
    refused: str | None,
    ids: str | None,
    as_json: bool,
) -> None:
    """Send each row of FILE as a message to the computation NAME.

    FILE is CSV with a header, or JSON lines; - reads standard input. Columns of CSV that are not fields, and rows of empty cells, are ignored,
    and named on standard error. At a row that cannot be sent, those before it have been sent: the
    error says with which --skip to continue. With --on-error skip the exit code is 1 if a row was refused.
    """
    installation = installation_in(context)
    computation = computation_named(installation, name, with_state=False)
    with ExitStack() as stack:
        keeper = None
        if dry_run or on_error == "skip":
            where = None if dry_run else refused or (file if file != "-" else "stdin") + ".refused"
            keeper = _Refused(stack, where)
        rows = Rows(
            file, form, computation, skip=skip, refuse=keeper, say=lambda text: click.echo(f"{file}: {escape_lines(text)}", err=True)
        )
        if keeper is not None:
            keeper.rows = rows
        if dry_run:
            done = sum(1 for _ in rows)
        else:
            id_of = None if ids is None else lambda _: f"{ids}:{rows.number}"
            try:
                messages = iter(rows) if file == "-" else rows  # whose number is unknown
                done = send_many(installation, computation, messages, progress, id_of=id_of, when_full=when_full)
            except MessageError as error:
                if rows.number:  # else it is the header, or the file
                    error.add_note(f"correct the row, and continue with --skip {rows.number - 1}")
                raise
            except SendInterrupted as error:
                if not keeper:
                    maybe = f" ({counted(len(error.unknown), 'row')} after that may be in its queue)" if error.unknown else ""
                    error.add_note(f"continue with --skip {skip + error.sent}{maybe}")
                raise
    count = 0 if keeper is None else keeper.count
    if dry_run:
        print_done(as_json, {"fit": done, "refused": count}, f"{counted(done, 'row')} can be sent to {name!r}, {count:,} cannot")
    else:
        text = f"{counted(done, 'message')} sent to {name!r}"
        more = f"; {counted(count, 'row')} refused, see {keeper.where}" if keeper is not None and count else ""
        print_done(as_json, {"sent": done} | ({} if keeper is None else {"refused": count}), text + more)
    if count:
        context.exit(1)


class _Refused:
    """Counts refused rows, names the first ones on standard error, and writes all to a file, which it creates for the first one."""

    def __init__(self, stack: ExitStack, where: str | None) -> None:
        self.where, self.count = where, 0
        #: Set before the first row is read.
        self.rows: Rows | None = None
        self._stack = stack
        self._file: BinaryIO | None = None

    def __call__(self, number: int, text: bytes, error: MessageError) -> None:
        self.count += 1
        if self.count <= MAX_NAMED:
            click.echo(escape_lines(str(error)), err=True)
        elif self.count == MAX_NAMED + 1:
            click.echo("… (further rows are not named)", err=True)
        if self.where is None:
            return
        if self._file is None:
            self._file = self._stack.enter_context(Path(self.where).open("wb"))  # noqa: SIM115 - closed by the stack
            self._file.write(b"" if self.rows is None else self.rows.header)
        self._file.write(text if text.endswith(b"\n") else text + b"\n")
