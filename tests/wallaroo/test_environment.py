"""The environment of a run's processes."""

from __future__ import annotations

import pytest

from celery_partitions.wallaroo.arguments import Options
from celery_partitions.wallaroo.runner import RunError, environment_of_run
from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import Settings, SettingsError

OPTIONS = Options("shop.votes", 3, 60.0)
ARGUMENTS = ("machida", "--application-module", "shop.votes", "--note", "two words")


def settings_of(**given: str) -> Settings:
    return from_environment(environment_of_run(given, OPTIONS, ARGUMENTS))


def test_a_run_without_a_signing_key_has_a_temporary_key_and_group() -> None:
    one, other = settings_of(), settings_of(REDIS_URL="redis://h/0")
    assert one.state_signing_keys and one.state_signing_keys != other.state_signing_keys
    assert one.group.startswith("wallaroo-shop-votes-") and one.group != other.group
    assert one.partitions == 6 and one.state_modules == ("*",)
    assert one.wallaroo_arguments == ARGUMENTS
    assert (one.retry_attempts, one.retry_exhausted) == (0, "dead_letter")


def test_with_a_signing_key_states_survive_the_run() -> None:
    given = settings_of(REDIS_URL="redis://h/0", PARTITIONS_STATE_SIGNING_KEY="0123456789abcdef", PARTITIONS_RETRY_ATTEMPTS="2", PARTITIONS_STATE_MODULES="shop.*")
    assert given.group == "wallaroo-shop-votes"
    assert given.state_signing_keys == (b"0123456789abcdef",)
    assert (given.partitions, given.retry_attempts, given.state_modules) == (16, 2, ("shop.*",))


def test_invalid_or_conflicting_variables_are_refused() -> None:
    with pytest.raises(RunError, match="Set both, or none"):
        settings_of(REDIS_URL="redis://h/0", PARTITIONS_GROUP="mine")
    with pytest.raises(SettingsError, match="PARTITIONS_LEASE_SECONDS"):
        settings_of(PARTITIONS_LEASE_SECONDS="long")


def test_all_modules_are_allowed_only_with_a_signing_key() -> None:
    with pytest.raises(SettingsError, match="PARTITIONS_STATE_SIGNING_KEY is not set"):
        from_environment({"PARTITIONS_STATE_MODULES": "*"})
