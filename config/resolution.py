"""Where the value of each setting comes from, and whether it is valid.

It comes from the first of these that has one: `Settings(…)` in code, the environment variable, the configuration of the Celery app (the
variable's name in lower case: `app.conf.partitions_lease_seconds`), the default.

Only this package reads the environment. Programs that start others (`celery_partitions.demo`, `celery_partitions.wallaroo`) set the
environment of their children and check it here.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from celery_partitions_config.declaration import UsedBy
from celery_partitions_config.parsers import as_text
from celery_partitions_config.settings import SETTINGS, Settings, SettingsError

#: Where a value came from, in the order of precedence.
Source = Literal["code", "environment", "app configuration", "default"]


@dataclass(frozen=True, slots=True)
class Resolved:
    """Settings, the source of each value, and the values that are not valid."""

    #: With the default in place of a value that is not valid.
    settings: Settings
    #: By field.
    sources: Mapping[str, Source]
    #: By field.
    refused: Mapping[str, SettingsError]

    def check(self, *used_by: UsedBy) -> Settings:
        """The settings. Raises `SettingsError` for the first value that is not valid.

        Only settings that this process uses are checked: those of "all", of "producers" (every process sends), and of `used_by`. So a
        producer does not fail because of a worker's setting.
        """
        for name, error in self.refused.items():
            if SETTINGS[name].used_by in ("all", "producers", *used_by):
                raise error
        return self.settings


def from_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """The settings of a process that uses all of them. Raises `SettingsError` for the first value that is not valid."""
    return resolve(environ=environ).check("workers", "dashboard", "wallaroo")


def resolve(
    code: Settings | None = None,
    environ: Mapping[str, str] | None = None,
    configuration: Mapping[str, Any] | None = None,
) -> Resolved:
    """Each setting from the first place that has it: code, the environment (`os.environ` when None), the app's configuration."""
    env = os.environ if environ is None else environ
    values: dict[str, Any] = {}
    sources: dict[str, Source] = {}
    refused: dict[str, SettingsError] = {}
    for one in SETTINGS.values():
        if code is not None and one.field in code.given:
            values[one.field], sources[one.field] = getattr(code, one.field), "code"
            continue
        name, text = one.variable, env.get(one.variable, "").strip()
        source: Source = "environment"
        if not text and configuration is not None and one.option is not None:
            name, text, source = one.option, as_text(configuration.get(one.option)), "app configuration"
        sources[one.field] = source if text else "default"
        if text:
            try:
                values[one.field] = one.parse(text)
            except ValueError as error:
                refused[one.field] = SettingsError(
                    f"{name}={'(hidden)' if one.secret else repr(text)} is not valid: {error}{_cause(text)}"
                )
    for own in ("redis_sentinel_kwargs", "redis_tls_options"):
        if code is not None and own in code.given:
            values[own] = getattr(code, own)
    settings = Settings(**{one: SETTINGS[one].default for one in SETTINGS} | values)
    return Resolved(settings, sources, {**_contradictions(settings), **refused})


def variables(environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The variables of an environment (`os.environ` if None) that are settings."""
    env = os.environ if environ is None else environ
    return {one.variable: env[one.variable] for one in SETTINGS.values() if one.variable in env}


def _cause(text: str) -> str:
    if not text.startswith(("tcp://", "udp://")):
        return ""
    return ". Kubernetes sets this variable for a Service of that name. Rename the Service, or set enableServiceLinks: false"


def _contradictions(settings: Settings) -> dict[str, SettingsError]:
    """Values that are not valid together, by the field that should change."""
    found: dict[str, SettingsError] = {}
    if "*" in settings.state_modules and not settings.state_signing_keys:
        found["state_modules"] = SettingsError(
            "PARTITIONS_STATE_MODULES='*' is not valid: it needs signed states, but PARTITIONS_STATE_SIGNING_KEY is not set"
        )
    if settings.wait_replicas and settings.wait_milliseconds >= settings.redis_timeout_seconds * 1000:
        found["wait_milliseconds"] = SettingsError(
            f"PARTITIONS_WAIT_MILLISECONDS={settings.wait_milliseconds} is not valid: expected less than PARTITIONS_REDIS_TIMEOUT_SECONDS "
            f"({settings.redis_timeout_seconds:g} s), the time that Redis has for a reply"
        )
    if 0 < settings.deploy_wait_seconds < settings.lease_seconds / 3:
        found["deploy_wait_seconds"] = SettingsError(
            f"PARTITIONS_DEPLOY_WAIT_SECONDS={settings.deploy_wait_seconds:g} is not valid: expected 0 (do not wait), or at least a third of "
            f"PARTITIONS_LEASE_SECONDS ({settings.lease_seconds:g} s): so often workers learn which tasks other workers know"
        )
    return found


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
