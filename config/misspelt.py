"""Finds names that were probably meant to be settings."""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable

from celery_partitions_config.settings import SETTINGS


def misspelt(environ: Iterable[str] | None = None, configuration: Iterable[str] = ()) -> dict[str, str]:
    """Names that are not settings but look like one: name → the name that was probably meant.

    `environ`: the names of variables (`os.environ` if None). `configuration`: the names in an app's configuration, where settings are in lower case.
    """
    options = {one.option for one in SETTINGS.values() if one.option is not None}
    return {
        **_near(os.environ if environ is None else environ, {one.variable for one in SETTINGS.values()}, "PARTITIONS?_"),
        **_near(configuration, options, "partitions?_"),
    }


def _near(names: Iterable[str], known: set[str], prefix: str) -> dict[str, str]:
    """The names that begin like a setting, are none, and are near to one."""
    rests = {re.sub(f"^{prefix}", "", one): one for one in known}
    found: dict[str, str] = {}
    for name in names:
        start = re.match(prefix, name)
        if start is not None and name not in known:
            for near in difflib.get_close_matches(name[start.end() :], rests, n=1, cutoff=0.8):
                found[name] = rests[near]
    return found
