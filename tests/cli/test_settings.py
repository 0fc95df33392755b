"""`partitions settings` and the settings table: complete, and without secrets."""

from __future__ import annotations

import json

import pytest
from celery import Celery

from celery_partitions.cli.settings import without_password
from celery_partitions_config.settings import SETTINGS, Settings
from tests.cli.conftest import Run
from tests.producer.conftest import MakeApp

SECRET = "a secret of sixteen letters"
URL = "redis://127.0.0.1:1/0"


def test_each_setting_is_shown_with_its_value_and_source(run: Run, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARTITIONS_BATCH_SECONDS", "0.5")
    monkeypatch.setenv("PARTITIONS_STATE_SIGNING_KEY", SECRET)
    monkeypatch.delenv("REDIS_URL")
    app = Celery("shop", broker="redis://ann:pass@127.0.0.1:1/0", set_as_current=False, partitions_lease_seconds=9)
    make_app(app, Settings(partitions=3))
    rows = {row["setting"]: row for row in json.loads(run("settings", "--json", app=app).stdout)["settings"]}
    assert rows.keys() == SETTINGS.keys()
    found = {name: (rows[name]["value"], rows[name]["source"]) for name in rows if rows[name]["source"] != "default"}
    assert found == {
        "redis_url": ("redis://ann:***@127.0.0.1:1/0", "app configuration"),
        "partitions": ("3", "code"),
        "lease_seconds": ("9", "app configuration"),
        "batch_seconds": ("0.5", "environment"),
        "state_signing_keys": ("(hidden)", "environment"),
    }
    app.conf.partitions_batch_mesages = 5
    assert json.loads(run("settings", "--json", app=app).stdout)["misspelt"] == {"partitions_batch_mesages": "partitions_batch_messages"}
    assert "Did you mean partitions_batch_messages?" in run("doctor", app=app).stdout
    table = run("settings", app=app).stdout
    assert "PARTITIONS_METRICS_PORT" in table and SECRET not in table and "pass@" not in table


def test_a_value_that_is_not_valid_and_a_misspelt_name_are_shown(
    run: Run, make_app: MakeApp, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARTITIONS_METRICS_PORT", "tcp://10.0.0.1:9090")
    monkeypatch.setenv("PARTITIONS_LEASE_SECOND", "3")
    monkeypatch.setenv("PARTITIONS_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("PARTITIONS_PORT", "tcp://10.0.0.1:80")
    app = make_app(URL, Settings(redis_url=URL))
    result = run("settings", app=app)
    assert result.exit_code == 1
    refused, misspelt = result.stderr.splitlines()
    assert refused.startswith("PARTITIONS_METRICS_PORT='tcp://10.0.0.1:9090' is not valid: expected an integer. Kubernetes sets")
    assert misspelt == "PARTITIONS_LEASE_SECOND is not a setting. Did you mean PARTITIONS_LEASE_SECONDS?"
    checks = json.loads(run("doctor", "--json", app=app).stdout)
    assert [one["verdict"] for one in checks if one["subject"] == "settings"] == ["bad", "warn"]


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://:p%40ss@host:6379/0", "redis://:***@host:6379/0"),
        ("sentinel://a:b@x:1;sentinel://:c@y:2", "sentinel://a:***@x:1;sentinel://:***@y:2"),
        ("redis://host/0?password=b&db=1", "redis://host/0?password=***&db=1"),
        ("redis://host/0", "redis://host/0"),
    ],
)
def test_no_password_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_password(url) == shown
