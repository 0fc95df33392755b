"""Generates reference pages of the guides as Markdown: `python -m celery_partitions.cli.reference settings`."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from typing import Any

from celery_partitions_config.declaration import Setting
from celery_partitions_config.settings import SETTINGS


def settings_table() -> str:
    """The table of all settings."""
    rows = ["| variable | default | used by | meaning |", "|---|---|---|---|"]
    for one in SETTINGS.values():
        rows.append(f"| `{one.variable}` | {_code(shown_value(one, one.default))} | {one.used_by} | {one.help.replace('|', chr(92) + '|')} |")
    return "\n".join(rows) + "\n"


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


def _code(text: str) -> str:
    return f"`{text}`" if text else "not set"


PAGES: Mapping[str, Callable[[], str]] = {"settings": settings_table}

if __name__ == "__main__":
    sys.stdout.write(PAGES[sys.argv[1]]())
