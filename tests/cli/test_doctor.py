"""`partitions doctor`: one line per subject, and an exit code for scripts."""

from __future__ import annotations

import json

from celery_partitions_config.settings import Settings
from tests.cli.conftest import Run
from tests.producer.conftest import MakeApp

SUBJECTS = {
    "settings", "version", "flaws", "eviction", "role", "persistence", "clock", "memory", "connections", "replicas", "scripts", "user", "TLS", "signing",
    "partitions", "workers", "queues", "libraries",
}  # fmt: skip


def test_a_line_for_each_subject_and_exit_code_0_if_nothing_is_bad(run: Run) -> None:
    result = run("doctor", "--json")
    found = {row["subject"]: row["verdict"] for row in json.loads(result.stdout)}
    assert result.exit_code == 0
    assert found.keys() == SUBJECTS
    assert set(found.values()) <= {"ok", "warn"}
    assert found["persistence"] == found["workers"] == found["signing"] == "warn"
    table = run("doctor").stdout
    assert all(subject in table for subject in SUBJECTS)
    assert "PARTITIONS_STATE_SIGNING_KEY" in table


def test_exit_code_1_if_something_is_bad(run: Run, make_app: MakeApp, settings: Settings, client: object) -> None:
    run("doctor")
    app = make_app(settings.redis_url, Settings(redis_url=settings.redis_url, wait_replicas=1))
    result = run("doctor", app=app)
    assert result.exit_code == 1
    assert "bad" in result.stdout and "PARTITIONS_WAIT_REPLICAS" in result.stdout


def test_an_unreachable_server_is_a_finding(run: Run, make_app: MakeApp) -> None:
    url = "redis://127.0.0.1:1/0"
    result = run("doctor", "--json", app=make_app(url, Settings(redis_url=url)))
    assert result.exit_code == 1
    first = json.loads(result.stdout)[1]
    assert (first["subject"], first["verdict"]) == ("server", "bad")
    assert "REDIS_URL" in first["text"]
