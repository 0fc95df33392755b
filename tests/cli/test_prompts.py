"""On a terminal the commands ask. Without a terminal they refuse without --yes, whatever standard input has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import redis

from celery_partitions.model.keys import partition_of
from tests.cli.conftest import Run
from tests.cli.declared import update
from tests.cli.terminal import answer

PutState = Callable[[str, float], None]


def test_only_yes_confirms(
    run: Run, put_state: PutState, redis_url: str, tmp_path: Path
) -> None:
    put_state("AAPL", 191.5)
    words = ("state", "set", update.name, "AAPL", '{"price": 5}')
    code, screen = answer("n", *words, url=redis_url, directory=tmp_path)
    assert code == 1
    old, new = screen.split("new:")
    assert "price = 191.5" in old and "price = 5.0" in new and "Set the state of 'AAPL'?" in screen
    assert "price = 191.5" in run("state", update.name, "AAPL").stdout
    code, screen = answer("y", *words, url=redis_url, directory=tmp_path)
    assert code == 0 and "is set" in screen
    assert "price = 5.0" in run("state", update.name, "AAPL").stdout


@pytest.mark.parametrize(
    "words",
    [
        ["state", "set", update.name, "AAPL", '{"price": 5}'],
        ["state", "delete", update.name, "AAPL"],
        ["parked", "skip", "AAPL"],
        ["parked", "discard", "--all"],
        ["dead-letters", "discard", "--all"],
        ["export", "there"],
        ["import", "exported"],
        ["import", "exported", "--replace"],
    ],
)
def test_nothing_is_done_without_a_terminal_to_ask(
    run: Run,
    put_state: PutState,
    add_dead_letter: Callable[..., str],
    client: redis.Redis,
    words: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    put_state("AAPL", 191.5)
    add_dead_letter("1", 0)
    partition = partition_of("AAPL", 4)
    client.hset(f"{{partition.{partition}}}:parked", "AAPL", '{"due": null, "attempt": 1}')
    client.lpush(f"{{partition.{partition}}}:mailbox:AAPL", "m")
    assert run("export", "exported").exit_code == 0
    Path("there").write_text("mine")
    before = {name: client.dump(name) for name in client.scan_iter()}
    result = run(*words, stdin="y\n")
    assert result.exit_code == 1
    assert "Pass --yes" in result.stderr
    assert {name: client.dump(name) for name in client.scan_iter()} == before
    assert Path("there").read_text() == "mine"
