"""Helpers that the commands share: the app's installation, its computations, typed keys, the user's name, confirmation."""

from __future__ import annotations

import base64
import os
import pwd
import socket
import sys

import click

from celery_partitions.model.computation import Computation
from celery_partitions.model.escaping import escape
from celery_partitions.model.keys import key_bytes, key_text
from celery_partitions.runtime.installation import Installation
from celery_partitions.runtime.registry import installation_of
from celery_partitions.sinks.group import sink_installation
from celery_partitions_config.command import SINK

#: The type of a key argument. A key may be any bytes; `refusals` requires UTF-8 of every other argument.
ANY_BYTES = click.UNPROCESSED

key_argument = click.argument("key", type=ANY_BYTES)
base64_option = click.option(
    "--base64", "in_base64", is_flag=True, help="KEY is base64, for a key that is not UTF-8 text."
)
yes_option = click.option("--yes", is_flag=True, help="Do not ask for confirmation.")


def installation_in(context: click.Context) -> Installation:
    """The installation of the app that `-A` names, or of a sink's group (`--sink`). Raises `ClickException` if there is none."""
    installation, sink = app_installation(context), context.meta.get(SINK)
    return installation if sink is None else sink_installation(installation, sink)


def app_installation(context: click.Context) -> Installation:
    """The installation of the app that `-A` names. Raises `ClickException` if there is none."""
    app = context.obj.app
    app.finalize(auto=True)
    app.loader.import_default_modules()
    found = installation_of(app)
    if found is None:
        raise click.ClickException(
            f"the app {app.main!r} has no partitions. Call celery_partitions.install(app) where the app is created, or use -A celery_partitions"
        )
    return found


def computation_named(installation: Installation, name: str, *, with_state: bool) -> Computation:
    """The app's computation with this name. Raises `ClickException` that lists the app's computations if there is none."""
    found = installation.by_task.get(name)
    if found is None:
        known = ", ".join(repr(one) for one in sorted(installation.computations)) or "none"
        raise click.ClickException(f"this app has no computation named {name!r}. Its computations: {known}")
    if with_state and found.state is None:
        raise click.ClickException(f"the computation {name!r} has no state")
    return found


def typed_key(key: str, in_base64: bool) -> str:
    """The key that the user typed: text, raw bytes from the shell, or base64 of its bytes."""
    if not in_base64:
        return key
    try:
        return key_text(base64.b64decode(key, validate=True))
    except ValueError as error:  # binascii's own, and the one for text outside ASCII
        raise click.UsageError(f"KEY is not base64: {error}") from None


def shown_key(key: str) -> str:
    """A key on one line of a terminal, with control characters and bytes that are not UTF-8 escaped."""
    return escape(key_bytes(key).decode("utf-8", "backslashreplace"))


def who() -> str:
    """The operating system user and the host, for the audit."""
    number = os.getuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:  # a container may run as a user id without a name
        user = str(number)
    return f"{user}@{socket.gethostname()}"


def confirm(question: str, yes: bool) -> None:
    """Ask before an action that cannot be undone. Any answer but yes ends the command with exit code 1.

    Without a terminal the action is refused: a script never waits for an answer and never destroys data by accident.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():  # None: closed, by `<&-`
        raise click.ClickException(f"{question} Cannot ask for confirmation (stdin is not a terminal). Pass --yes.")
    click.confirm(question, abort=True, err=True)
