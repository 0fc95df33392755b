"""How the commands print: a table for people, JSON for scripts, one line on standard error when something is refused."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar

import click
import msgspec
import redis
from rich.console import Console
from rich.table import Table

from config.settings import SettingsError
from tasks.model.errors import PartitionError

P = ParamSpec("P")
R = TypeVar("R")

json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON, for scripts.")


def print_json(value: Any) -> None:
    """One JSON document; what JSON has no form for is shown by its attributes, or its repr."""
    click.echo(msgspec.json.format(msgspec.json.encode(value, enc_hook=plain), indent=2).decode())


def plain(value: Any) -> Any:
    """Anything as what JSON can show."""
    if hasattr(value, "__dict__"):
        return vars(value)
    slots = [name for cls in type(value).__mro__ for name in getattr(cls, "__slots__", ())]
    if slots:
        return {name: getattr(value, name) for name in slots if hasattr(value, name)}
    return repr(value)


def print_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A table as wide as its content needs; numbers to the right."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        right = bool(rows) and all(isinstance(row[number], int | float) for row in rows)
        table.add_column(column, justify="right" if right else "left", overflow="fold")
    for row in rows:
        table.add_row(
            *(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row)
        )
    width = None if sys.stdout.isatty() else 200
    Console(width=width).print(table)


def refusals(command: Callable[P, R]) -> Callable[P, R]:
    """Turn the errors that an operator can mend into one line and exit code 1."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return command(*args, **kwargs)
        except (PartitionError, SettingsError) as error:
            raise click.ClickException("; ".join([str(error), *getattr(error, "__notes__", ())])) from error
        except (redis.RedisError, OSError) as error:
            raise click.ClickException(f"Redis: {error}") from error

    return run
