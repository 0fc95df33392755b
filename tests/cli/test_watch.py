"""`partitions watch KEY`."""

from __future__ import annotations

import json
from collections.abc import Callable

import msgspec
import redis
from celery import Celery

from celery_partitions.model.keys import partition_of
from celery_partitions.model.timeline import Event, KeyChange, StateChange
from celery_partitions.runtime.registry import installation_of
from tests.cli.conftest import Run
from tests.cli.declared import Last, update

PutState = Callable[[str, float], None]


def test_without_a_timeline_what_is_there_is_shown(run: Run, put_state: PutState) -> None:
    put_state("AAPL", 191.5)
    result = run("watch", "AAPL", "--once")
    assert result.exit_code == 0
    assert result.stdout.splitlines()[0].endswith("  nothing of this key is parked")
    assert result.stdout.splitlines()[1].strip() == f"{update.name}.price: None → 191.5"
    assert run("watch", "QVBM", "--base64", "--once").exit_code == 0
    assert "KEY is not base64" in run("watch", "?", "--base64", "--once").stderr


def test_the_timeline_is_shown_and_text_from_outside_is_escaped(run: Run, app: Celery, client: redis.Redis, put_state: PutState) -> None:
    put_state("AAPL", 191.5)
    installation = installation_of(app)
    assert installation is not None
    state = Last()
    state.price = 190.0
    record = installation.group.codec.dump(update.computation, "AAPL", state)
    changes = [
        KeyChange(1_700_000_001.5, 8, "w", [Event("failed", update.name, "m\x1b[31m", error="ValueError: \x1b]0;title\x07")]),
        KeyChange(1_700_000_000.0, 7, "w", [Event("applied", update.name, "m0", 1_699_999_999.0)], states={update.name: StateChange(None, record)}),
    ]
    lines = b"\n".join(map(msgspec.json.encode, changes)) + b'\n{"cut'
    client.hset(f"{{partition.{partition_of('AAPL', 4)}}}:timelines", "AAPL", lines)
    result = run("watch", "AAPL", "--once")
    assert "\x1b" not in result.stdout and "\x07" not in result.stdout
    first, field, second = result.stdout.splitlines()[:3]
    assert first == f"2023-11-14 22:13:20  applied {update.name} m0, 1 s after it was sent  [w (commit 7)]"
    assert field.strip() == f"{update.name}.price: None → 190.0"
    assert "failed, attempt 1: ValueError" in second
    rows = [json.loads(line) for line in run("watch", "AAPL", "--once", "--json").stdout.splitlines()]
    assert [row["commit_number"] for row in rows if row["commit_number"]] == [7, 8]
    assert rows[0]["events"] == [{"what": "applied", "task": update.name, "id": "m0", "sent_at": 1_699_999_999.0}]
