"""Formats values for the pages: phrases and addresses. Numbers are in `admin/numbers.py`. No I/O; the templates escape the results."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlencode

from celery_partitions.admin.numbers import UNKNOWN, ago, count, counted, number, size, span
from celery_partitions.admin.retries import described
from celery_partitions.admin.timeline import WHYS
from celery_partitions.dashboard.drawing import draw

#: The shortest text that Flower searches for.
_SHORTEST_SEARCH = 3


def due(at: float | None, now: float) -> str:
    """When a parked key is retried next."""
    if at is None:
        return "held until you act"
    return f"in {span(at - now)}" if at > now else "now"


def what_came(commit: dict[str, Any]) -> str:
    """The outcome of a commit's messages: `10 processed, 1 failed`."""
    kinds = ("processed", "emitted", "forwarded", "failed", "dead", "skipped")
    return ", ".join(f"{commit[kind]:,} {kind}" for kind in kinds if commit[kind]) or UNKNOWN


def key_body(one: dict[str, Any]) -> dict[str, Any]:
    return {"key": one["key_base64"], "base64": True} if "key_base64" in one else {"key": one["key"]}


def tasks_query(name: str, key: str) -> str:
    """The query of Flower's task list for one key of a computation; empty if Flower cannot search for it.

    Flower's page takes a task name in the address, and also searches for the text after it.
    """
    if len(name) < _SHORTEST_SEARCH:
        return ""
    return "?name=" + quote(f"{_quoted(name)} args:{_quoted(f'key={key} ')}", safe="")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def pretty(value: Any) -> str:
    """Indented JSON, for reading and editing."""
    return json.dumps(value, indent=2, ensure_ascii=False)


def when(at: float | None, now: float) -> str:
    """How long ago, as markup: a script adds the absolute time, in the viewer's zone."""
    words = ago(at, now)
    try:
        return words if at is None else f'<time datetime="{datetime.fromtimestamp(at, UTC):%Y-%m-%dT%H:%M:%SZ}">{words}</time>'
    except (ValueError, OverflowError, OSError):  # a sender may give any number
        return words


def short_json(value: Any) -> str:
    """JSON on one line, cut if it is long."""
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 2_000 else text[:2_000] + "…"


def about(part: dict[str, Any]) -> str:
    """What waits for a part of a pipeline."""
    if part["waiting"] is None:
        return UNKNOWN
    return f"{'about ' if part['is_estimate'] and part['waiting'] else ''}{number(part['waiting'])}"


#: What the templates may call.
HELPERS: Mapping[str, Callable[..., Any]] = {
    # JSON for an attribute that a script reads, a query for an address, and why a key waits, in two or three words.
    "as_json": json.dumps,
    "query_of": lambda **words: urlencode(words),
    "described": described,
    "why": lambda reason: WHYS.get(reason, reason),
    **{
        helper.__name__: helper
        for helper in (about, ago, count, counted, draw, due, key_body, number, pretty, short_json, size, span, what_came, when)
    },
}
