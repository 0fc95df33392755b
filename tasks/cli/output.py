"""How the commands print: a table for people, JSON for scripts, one line on standard error for an error."""

from __future__ import annotations

import errno
import functools
import io
import re
import sys
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, Concatenate, ParamSpec, TypeVar

import click
import msgspec
import redis
from rich.console import Console
from rich.table import Table

from celery_partitions.admin.state_json import plain_value
from celery_partitions.model.errors import PartitionError, encodable, refusal_of
from celery_partitions.model.escaping import escape, escape_lines
from celery_partitions.runtime.registry import installation_of
from celery_partitions_config.settings import SettingsError

P = ParamSpec("P")
R = TypeVar("R")

#: For a command that a server at its maxmemory refuses.
FULL = "Redis is full: it has reached its maxmemory, and refuses what needs memory. Give it more, or let the workers empty the queues"

def print_json(value: Any) -> None:
    """Print one JSON document. A value that JSON cannot represent is shown by its fields, or by its repr."""
    text = msgspec.json.format(msgspec.json.encode(value, enc_hook=plain_value), indent=2).decode()
    click.echo(_CONTROLS_OF_TERMINALS.sub(lambda found: f"\\u{ord(found[0]):04x}", text))


def print_line(value: Any) -> None:
    """Print one JSON document on one line, and flush it."""
    text = msgspec.json.encode(value, enc_hook=plain_value).decode()
    sys.stdout.write(_CONTROLS_OF_TERMINALS.sub(lambda found: f"\\u{ord(found[0]):04x}", text) + "\n")
    sys.stdout.flush()


#: JSON itself escapes the control characters below U+0020.
_CONTROLS_OF_TERMINALS = re.compile("[\x7f-\x9f]")


def print_done(as_json: bool, facts: dict[str, Any], text: str) -> None:
    """Print what a command did: `facts` as JSON for scripts, or the sentence `text`."""
    if as_json:
        print_json(facts)
    else:
        click.echo(escape_lines(text))


def print_facts(as_json: bool, facts: Any, columns: Sequence[str], rows: Sequence[Sequence[object]], whole: Sequence[str] = ()) -> None:
    """Print `facts` as JSON for scripts, or a table (see `print_table`)."""
    if as_json:
        print_json(facts)
    else:
        print_table(columns, rows, whole)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]], whole: Sequence[str] = ()) -> None:
    """Print a table, numbers aligned to the right. `whole` names the columns that a narrow terminal does not fold."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold", no_wrap=column in whole)
    for row in rows:
        table.add_row(
            *(
                f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else escape(str(cell))
                for cell in row
            )
        )
    width = None if sys.stdout.isatty() else 200
    Console(width=width, markup=False, emoji=False, highlight=False).print(table)


def _refuse_what_is_no_text(parameter: click.Parameter, given: object) -> None:
    """Raise `UsageError` for bytes from the shell that are not UTF-8. Python turns them into lone surrogates, which neither Redis
    nor JSON accepts. Only files and keys, whose type is not `STRING`, may be any bytes."""
    words = given if isinstance(given, tuple) else (given,)
    if parameter.type is click.STRING and any(isinstance(word, str) and encodable(word) != word for word in words):
        raise click.BadParameter("not valid UTF-8", param=parameter)


def _of_a_file(error: Exception) -> str:
    """The text of an operating system error (a full disk, a missing directory), with the file's name."""
    name, words = getattr(error, "filename", None), getattr(error, "strerror", None) or str(error)
    return words if name is None else f"{name}: {words}"


def _how_to_reach(error: Exception) -> str:
    """The advice for a server that cannot be reached; "" for other errors."""
    if not isinstance(error, redis.ConnectionError | redis.TimeoutError):
        return ""
    source = "REDIS_URL (or the app's broker_url)"
    with suppress(Exception):  # there is no app, or its settings are not valid
        found = installation_of(click.get_current_context().obj.app)
        source = source if found is None else found.redis_source
    return f"{'' if str(error).endswith('.') else '.'} Is the server running? Its address comes from {source}"


def _write_any_text() -> None:
    """Write a character that the terminal's encoding has not (latin-1, ASCII) as `?`, instead of failing."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors == "strict":
            stream.reconfigure(errors="replace")


def refusals(command: Callable[Concatenate[click.Context, P], R]) -> Callable[P, R]:
    """Give a command its context, and turn the errors that an operator can fix into one line and exit code 1. An argument that is not UTF-8 is
    wrong usage."""

    @click.pass_context
    @functools.wraps(command)
    def run(context: click.Context, /, *args: P.args, **kwargs: P.kwargs) -> R:
        _write_any_text()
        for parameter in context.command.params:
            _refuse_what_is_no_text(parameter, kwargs.get(parameter.name or ""))
        try:
            return command(context, *args, **kwargs)
        except (PartitionError, SettingsError) as error:
            raise click.ClickException(escape_lines("; ".join([str(error), *getattr(error, "__notes__", ())]))) from error
        except redis.exceptions.OutOfMemoryError as error:
            raise click.ClickException(FULL) from error
        except (redis.RedisError, OSError) as error:
            if isinstance(error, OSError) and error.errno == errno.EPIPE:
                raise  # the reader of the output has gone: click exits silently. redis-py wraps a connection's own EPIPE
            of_redis = isinstance(error, redis.RedisError | ConnectionError | TimeoutError)
            text = f"Redis: {refusal_of(error)}{_how_to_reach(error)}" if of_redis else _of_a_file(error)
            raise click.ClickException(escape_lines(text)) from error

    return run


def prints_facts(command: Callable[Concatenate[click.Context, P], R]) -> Callable[P, R]:
    """As `refusals`, for a command that prints facts: it gets `as_json` (`--json`)."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")(refusals(command))
