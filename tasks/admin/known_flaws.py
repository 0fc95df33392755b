"""Versions of Redis and Valkey with a flaw that lets anyone who may send commands run code on the server.

As known at the end of July 2026. A release line (8.6, 7.2, …) that is not listed and is older than the newest listed line gets no fix.
Sources: the release notes of redis/redis (October 2025; 8.6.3, May 2026; 8.8.1, July 2026) and of valkey-io/valkey (8.1.4, 8.1.7, 9.1.1).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

Line = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Flaw:
    """A set of fixes that were released together."""

    what: str
    advisories: str
    #: Release line → its first fixed patch release. Newer lines never had the flaw.
    fixed: Mapping[Line, int]


REDIS = (
    Flaw(
        "RESTORE of a stream, or of a t-digest",
        "release notes of July 2026",
        {(6, 2): 23, (7, 2): 15, (7, 4): 10, (8, 2): 8, (8, 4): 5, (8, 6): 5, (8, 8): 1},
    ),
    Flaw(
        "unblocked clients, RESTORE, Lua",
        "CVE-2026-23479, CVE-2026-25243, CVE-2026-23631",
        {(6, 2): 22, (7, 2): 14, (7, 4): 9, (8, 2): 6, (8, 4): 3, (8, 6): 3},
    ),
    Flaw("Lua", "CVE-2025-49844", {(6, 2): 20, (7, 2): 11, (7, 4): 6, (8, 0): 4, (8, 2): 2}),
)
VALKEY = (
    Flaw(
        "RESTORE of a stream, CLIENT KILL with TLS",
        "CVE-2026-63639, CVE-2026-56684",
        {(7, 2): 14, (8, 0): 10, (8, 1): 9, (9, 0): 5, (9, 1): 1},
    ),
    Flaw(
        "unblocked clients, RESTORE, Lua",
        "CVE-2026-23479, CVE-2026-25243, CVE-2026-23631",
        {(7, 2): 13, (8, 0): 9, (8, 1): 7, (9, 0): 4},
    ),
    Flaw("Lua", "CVE-2025-49844", {(7, 2): 11, (8, 0): 6, (8, 1): 4}),
)


def flaws_of(info: Mapping[str, Any]) -> list[Flaw]:
    """The known flaws of a server, by the version that INFO reports. None for a version that cannot be parsed."""
    valkey = info.get("valkey_version")
    found = re.match(r"(\d+)\.(\d+)\.(\d+)", str(valkey or info.get("redis_version") or ""))
    if found is None:
        return []
    major, minor, patch = map(int, found.groups())
    line = (major, minor)
    return [
        flaw for flaw in (VALKEY if valkey else REDIS) if line <= max(flaw.fixed) and patch < flaw.fixed.get(line, patch + 1)
    ]


def describe_flaws(info: Mapping[str, Any]) -> str | None:
    """The known flaws and what to do about them; None for a server without known flaws."""
    flaws = flaws_of(info)
    if not flaws:
        return None
    name = f"Valkey {info['valkey_version']}" if info.get("valkey_version") else f"Redis {info.get('redis_version')}"
    fixed = ", ".join(f"{major}.{minor}.{patch}" for (major, minor), patch in sorted(flaws[0].fixed.items()))
    known = "; ".join(f"{flaw.what} ({flaw.advisories})" for flaw in flaws)
    return (
        f"anyone who may send commands to {name} can run code on its machine: {known}. Upgrade to {fixed} or newer, unless your "
        "distribution has patched this version (Debian and others patch without changing the number)"
    )
