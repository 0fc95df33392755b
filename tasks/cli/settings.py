"""`partitions settings`: the app's settings, and where each value comes from."""

from __future__ import annotations

import re
from typing import Any

import click

from celery_partitions.cli.context import app_installation
from celery_partitions.cli.output import print_json, print_table, prints_facts
from celery_partitions.model.errors import SetupError
from celery_partitions.runtime.installation import Installation
from celery_partitions_config.declaration import Setting
from celery_partitions_config.settings import SETTINGS, SettingsError


@click.command(short_help="List the settings, their values and their sources.")
@prints_facts
def settings(context: click.Context, as_json: bool) -> None:
    """List every setting with its value and its source: code, environment, app configuration or default.

    Secrets are hidden. The exit code is 1 if a value is not valid.
    """
    installation = app_installation(context)
    rows, refused = settings_rows(installation), installation.resolved.refused
    if as_json:
        print_json({"settings": rows, "misspelt": installation.misspelt})
    else:
        print_table(
            ("setting", "value", "source", "used by", "help"),
            [(row["variable"], "not valid" if row["error"] else row["value"], row["source"], row["used_by"], row["help"]) for row in rows],
            whole=("setting", "source", "used by"),
        )
        for error in refused.values():
            click.echo(str(error), err=True)
        for name, meant in installation.misspelt.items():
            click.echo(f"{name} is not a setting. Did you mean {meant}?", err=True)
    if refused:
        context.exit(1)


def shown_value(one: Setting, value: Any) -> str:
    """A value as written in the environment, with secrets hidden. "" if it is not set."""
    match value:
        case None | () | "":
            return ""
        case _ if one.secret:
            return "(hidden)"
        case bool():
            return "1" if value else "0"
        case float():
            return f"{value:g}"
        case tuple():
            return ",".join(map(str, value))
        case _:
            return without_password(str(value))


def without_password(url: str) -> str:
    """A URL, or several, with the passwords replaced by ***."""
    return re.sub(r"\bpassword=[^&;]*", "password=***", re.sub(r"//([^:@/;]*):[^;]*@", r"//\1:***@", url))


def settings_rows(installation: Installation) -> list[dict[str, Any]]:
    """A row for each setting. Does not connect to a server."""
    resolved = installation.resolved
    try:
        used = installation.settings
    except (SetupError, SettingsError):
        used = resolved.settings
    rows: list[dict[str, Any]] = []
    for one in SETTINGS.values():
        value, source = getattr(used, one.field), resolved.sources[one.field]
        if value != getattr(resolved.settings, one.field):
            source = "app configuration"  # the app's broker_url, or master_name in its broker_transport_options
        error = resolved.refused.get(one.field)
        rows.append(
            {
                "setting": one.field,
                "variable": one.variable,
                "option": one.option or "broker_url",
                "value": shown_value(one, value),
                "default": shown_value(one, one.default),
                "source": source,
                "error": None if error is None else str(error),
                "used_by": one.used_by,
                "help": one.help,
            }
        )
    return rows
