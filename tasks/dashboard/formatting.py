"""How values look in the pages: sentences and addresses; numbers are in `admin/numbers.py`. Pure; the templates escape what comes out."""

from __future__ import annotations

import json
from typing import Any
from urllib.parse import quote, urlencode

from celery_partitions.admin.numbers import UNKNOWN, ago, count, counted, size, span

#: Flower refuses to search for less.
_SHORTEST_SEARCH = 3


def due(at: float | None, now: float) -> str:
    """When a parked key is tried next."""
    if at is None:
        return "held, until you act"
    return f"in {span(at - now)}" if at > now else "now"


def what_came(commit: dict[str, Any]) -> str:
    """What a commit's messages became: `10 processed, 1 failed`."""
    kinds = ("processed", "emitted", "forwarded", "failed", "dead", "skipped")
    return ", ".join(f"{commit[kind]:,} {kind}" for kind in kinds if commit[kind]) or UNKNOWN


def key_body(one: dict[str, Any]) -> dict[str, Any]:
    """How an action is told the key: as JSON has it."""
    return {"key": one["key_base64"], "base64": True} if "key_base64" in one else {"key": one["key"]}


def key_query(one: dict[str, Any]) -> str:
    if "key_base64" in one:
        return "?" + urlencode({"key": one["key_base64"], "base64": 1})
    return "?" + urlencode({"key": one["key"]})


def tasks_query(name: str, key: str) -> str:
    """Flower's task list, searched for a key of a computation; empty when Flower can't search for that.

    Its page takes a name in the address; what stands behind it is searched for too.
    """
    if len(name) < _SHORTEST_SEARCH:
        return ""
    return "?name=" + quote(f"{_quoted(name)} args:{_quoted(f'key={key} ')}", safe="")


def _quoted(text: str) -> str:
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def as_json(value: Any) -> str:
    """For an attribute that a script reads."""
    return json.dumps(value)


def pretty(value: Any) -> str:
    """For people, and to be edited."""
    return json.dumps(value, indent=2, ensure_ascii=False)


HELPERS = {
    "span": span,
    "size": size,
    "ago": ago,
    "due": due,
    "count": count,
    "counted": counted,
    "what_came": what_came,
    "key_body": key_body,
    "as_json": as_json,
    "pretty": pretty,
}
