"""`partitions migrate`: a gate for deploys, and states written in bulk."""

from __future__ import annotations

import json
from collections.abc import Callable

import redis

from tests.cli.conftest import Refused, Run


def test_check_passes_if_every_state_can_be_read(run: Run, put_state: Callable[[str, float], None]) -> None:
    put_state("AAPL", 1.5)
    result = run("migrate", "--json")
    assert result.exit_code == 0
    found = json.loads(result.stdout)
    (one,) = [each for each in found["computations"] if each["states"]]
    assert (found["applied"], one["version"], one["versions"], one["outdated"], one["failed"]) == (False, 1, {"1": 1}, 0, 0)
    assert "1 with 1" in run("migrate", "--check").stdout


def test_it_fails_and_names_what_it_cannot_read(run: Run, put_state: Callable[[str, float], None], client: redis.Redis) -> None:
    put_state("AAPL", 1.5)
    (name,) = client.scan_iter(match="*state:*")
    client.hset(name, "\x1b[1m", b"rubbish")  # type: ignore[arg-type]
    for words in (("migrate",), ("migrate", "--apply", "--yes")):
        result = run(*words)
        assert result.exit_code == 1
        assert "key \\x1b[1m, partition" in result.stderr and "begins with the byte" in result.stderr and "\x1b" not in result.output


def test_apply_asks_first(refused: Refused) -> None:
    refused("migrate", "--apply", says="Pass --yes")
