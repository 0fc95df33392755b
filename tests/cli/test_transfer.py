"""`partitions export` and `import`."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import redis

from celery_partitions_config.settings import Settings
from tests.cli.conftest import Refused, Run
from tests.cli.declared import update
from tests.producer.conftest import MakeApp

PutState = Callable[[str, float], None]


@pytest.fixture
def file(tmp_path: Path, put_state: PutState, client: redis.Redis, run: Run) -> str:
    """An export with a state and a message of each of the keys `a` and `b`."""
    client.hset("{partition}:group", f"computation:{update.name}", 1)
    for number, key in enumerate("ab"):
        put_state(key, number)
    assert run("send", update.name, "-", stdin='{"symbol": "a", "price": 5}\n{"symbol": "b", "price": 6}').exit_code == 0
    path = str(tmp_path / "all.jsonl")
    # One record of meta per partition, two states, two messages.
    assert json.loads(run("export", path, "--json").stdout) == {"records": 9, "paused": []}
    return path


def test_into_an_empty_group(run: Run, file: str, client: redis.Redis) -> None:
    client.flushdb()
    done = json.loads(run("import", file, "--json").stdout)
    assert done == {"records": 9, "from_partitions": 4, "to_partitions": 4, "without_key": 0, "left_out": 0, "erased": 0}
    assert json.loads(run("state", update.name, "b", "--json").stdout)["state"] == {"price": 1.0}
    assert sum(row["length"] for row in json.loads(run("status", "--json").stdout)) == 2


def test_a_group_that_is_not_empty_needs_yes_and_keeps_its_data(run: Run, refused: Refused, file: str) -> None:
    refused("import", file, says="is not empty: 2 messages, 2 states")
    assert run("import", file, "--yes").exit_code == 0
    assert sum(row["length"] for row in json.loads(run("status", "--json").stdout)) == 4


def test_n_is_changed_by_replacing(run: Run, refused: Refused, file: str, make_app: MakeApp, settings: Settings) -> None:
    other = make_app(settings.redis_url, replace(settings, partitions=7))
    refused("import", file, app=other, says="has 4 partitions")
    result = run("import", file, "--replace", "--yes", app=other)
    assert (result.exit_code, result.stdout) == (0, "9 records of 4 partitions written to 7\n")
    rows = json.loads(run("status", "--json", app=other).stdout)
    assert (len(rows), sum(row["length"] for row in rows), sum(row["keys"] for row in rows)) == (8, 2, 2)
    assert json.loads(run("state", update.name, "a", "--json", app=other).stdout)["state"] == {"price": 0}


def test_a_bad_file_is_refused_before_anything_is_deleted(run: Run, file: str) -> None:
    text = Path(file).read_text()
    Path(file).write_text(text[: len(text) // 2])
    result = run("import", file, "--replace", "--yes")
    assert (result.exit_code, result.stdout) == (1, "")
    assert json.loads(run("state", update.name, "b", "--json").stdout)["state"] == {"price": 1.0}


def test_an_export_overwrites_a_file_only_with_yes(run: Run, file: str, tmp_path: Path) -> None:
    assert run("export", file, "--yes").exit_code == 0
    assert run("export", str(tmp_path / "no" / "folder")).exit_code == 1
    assert run("import", str(tmp_path / "nothing")).exit_code == 2
