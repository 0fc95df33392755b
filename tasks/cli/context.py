"""What the commands share: the app's installation, its computations, keys as they are typed, who is asking, and asking back."""

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

#: The type of what is a key: not text alone, as `refusals` wants of other words.
ANY_BYTES = click.UNPROCESSED

key_argument = click.argument("key", type=ANY_BYTES)
base64_option = click.option(
    "--base64", "in_base64", is_flag=True, help="KEY is given in base64: for a key that is no text."
)
yes_option = click.option("--yes", is_flag=True, help="Don't ask.")


def installation_in(context: click.Context) -> Installation:
    """The installation on the app that `-A` names, or that of a sink's group (`--sink`). Raises `ClickException` when it has none."""
    installation, sink = app_installation(context), context.meta.get(SINK)
    return installation if sink is None else sink_installation(installation, sink)


def app_installation(context: click.Context) -> Installation:
    """The installation on the app that `-A` names. Raises `ClickException` when it has none."""
    app = context.obj.app
    app.finalize(auto=True)
    app.loader.import_default_modules()
    found = installation_of(app)
    if found is None:
        raise click.ClickException(
            f"the app {app.main!r} has no partitions: call celery_partitions.install(app) where it is made, or use -A celery_partitions"
        )
    return found


def computation_named(installation: Installation, name: str, *, with_state: bool) -> Computation:
    """A computation of the app by its name. Raises `ClickException` that lists what there is."""
    found = installation.computations.get(name)
    if found is None:
        known = ", ".join(repr(one) for one in sorted(installation.computations)) or "none"
        raise click.ClickException(f"no computation is named {name!r}; this app has: {known}")
    if with_state and found.state is None:
        raise click.ClickException(f"the computation {name!r} has no state")
    return found


def typed_key(key: str, in_base64: bool) -> str:
    """A key as it was typed: text (bytes that are no text come from the shell as they are), or base64 of its bytes."""
    if not in_base64:
        return key
    try:
        return key_text(base64.b64decode(key, validate=True))
    except ValueError as error:  # binascii's own, and that of text beyond ASCII
        raise click.UsageError(f"KEY is not base64: {error}") from None


def shown_key(key: str) -> str:
    """A key on one line of a terminal: what is no text, and control characters, escaped."""
    return escape(key_bytes(key).decode("utf-8", "backslashreplace"))


def who() -> str:
    """The user of the operating system and the host, for the audit."""
    number = os.getuid()
    try:
        user = pwd.getpwuid(number).pw_name
    except KeyError:  # a container's user without a name
        user = str(number)
    return f"{user}@{socket.gethostname()}"


def confirm(question: str, yes: bool) -> None:
    """Ask before something that can't be undone; anything but a yes ends the command with exit code 1.

    Where nobody can answer it is refused, so that a script never waits, and never does it by accident.
    """
    if yes:
        return
    if sys.stdin is None or not sys.stdin.isatty():  # None: closed, by `<&-`
        raise click.ClickException(f"{question} Nobody can be asked here (standard input is no terminal): say --yes")
    click.confirm(question, abort=True, err=True)
