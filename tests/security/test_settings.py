"""The security settings: valid and invalid values, and that no secret is shown."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from celery_partitions_config.celeryconfig import celery_options
from celery_partitions_config.parsers import MAX_MESSAGE_BYTES
from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import Settings, SettingsError


def test_a_signing_key_that_is_too_short_is_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="at least 16 characters") as caught:
        from_environment({"PARTITIONS_STATE_SIGNING_KEY": "a rather long secret,hunter2"})
    assert "hunter2" not in str(caught.value) and "rather" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("shop", ("shop",)),
        (" shop.models , shop.* ", ("shop.models", "shop.*")),
        ("shop.models:rebuild,a:B.c", ("shop.models:rebuild", "a:B.c")),
        ("", ()),
    ],
)
def test_state_modules_are_modules_packages_and_names(text: str, entries: tuple[str, ...]) -> None:
    assert from_environment({"PARTITIONS_STATE_MODULES": text}).state_modules == entries


@pytest.mark.parametrize("text", [".*", "shop*", "shop.", "a b", "shop:", ":name", "shop.*:name", "a/b", "shop:*"])
def test_a_value_that_would_allow_everything_or_nothing_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match=r"PARTITIONS_STATE_MODULES=.* expected a module"):
        from_environment({"PARTITIONS_STATE_MODULES": text})


def test_allowing_everything_needs_a_signing_key() -> None:
    with pytest.raises(SettingsError, match="PARTITIONS_STATE_SIGNING_KEY is not set"):
        from_environment({"PARTITIONS_STATE_MODULES": "*"})
    assert from_environment({"PARTITIONS_STATE_MODULES": "*", "PARTITIONS_STATE_SIGNING_KEY": "k" * 32}).state_modules == ("*",)


@pytest.mark.parametrize("text", ["0", "-1", str(MAX_MESSAGE_BYTES + 1), "8MB"])
def test_a_limit_larger_than_a_dead_letter_can_store_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="PARTITIONS_MESSAGE_BYTES"):
        from_environment({"PARTITIONS_MESSAGE_BYTES": text})


@pytest.mark.parametrize("text", ["0", "-1", "nan", "inf", "1e10", "soon"])
def test_a_time_that_is_too_long_to_wait_for_is_refused(text: str) -> None:
    with pytest.raises(SettingsError, match="PARTITIONS_REDIS_TIMEOUT_SECONDS"):
        from_environment({"PARTITIONS_REDIS_TIMEOUT_SECONDS": text})


@pytest.mark.parametrize(
    "value",
    [
        {"partitions": 0},
        {"partitions": 5000},
        {"group": ""},
        {"lease_seconds": 0},
        {"redis_timeout_seconds": 1e10},
        {"batch_messages": -1},
        {"message_bytes": 0},
    ],
)
def test_values_given_in_code_are_checked_too(value: dict[str, Any]) -> None:
    with pytest.raises(SettingsError, match=next(iter(value))):
        Settings(**value)


def test_certificates_reach_both_of_celerys_connections_and_must_exist(tmp_path: Path) -> None:
    file = tmp_path / "ca.pem"
    with pytest.raises(SettingsError, match="the file does not exist"):
        from_environment({"PARTITIONS_REDIS_TLS_CA_FILE": str(file)})
    file.write_text("")
    settings = from_environment({"REDIS_URL": "rediss://host", "PARTITIONS_REDIS_TLS_CA_FILE": str(file)})
    options = celery_options(settings)
    for name in ("broker_use_ssl", "redis_backend_use_ssl"):
        assert (options[name]["ssl_ca_certs"], options[name]["ssl_check_hostname"]) == (str(file), True)
