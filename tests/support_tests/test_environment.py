"""The developer's environment does not reach a test."""

import os

import pytest

from celery_partitions_config.resolution import from_environment
from celery_partitions_config.settings import Settings
from tests.support.environment import NO_SERVER_URL, PARTITIONS, clear_environment, setting_names


def test_the_settings_are_found() -> None:
    assert {"REDIS_URL", "PARTITIONS", "PARTITIONS_STATE_SIGNING_KEY", "PARTITIONS_LEASE_SECONDS"} <= setting_names()


def test_the_settings_are_cleared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://production/0")
    monkeypatch.setenv("PARTITIONS", "64")
    monkeypatch.setenv("CELERY_BROKER_URL", "redis://production/0")
    clear_environment()
    assert from_environment() == Settings(redis_url=NO_SERVER_URL, partitions=PARTITIONS)
    assert "CELERY_BROKER_URL" not in os.environ
