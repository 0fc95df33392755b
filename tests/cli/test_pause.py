"""`partitions pause|resume|drain|undrain|workers|policy`."""

from __future__ import annotations

import json

import pytest
import redis

from celery_partitions.store.leases import balance
from celery_partitions.store.names import Names
from tests.cli.conftest import Refused, Run
from tests.cli.declared import limited, update


def paused(run: Run) -> list[str]:
    return [row["queue"] for row in json.loads(run("status", "--json").stdout) if row["paused"]]


def test_pause_and_resume_by_queue_number_and_ingress(run: Run) -> None:
    result = run("pause", "1", "partition.3", "ingress", "--json")
    assert json.loads(result.stdout) == {"paused": ["partition.1", "partition.3", "partition"]}
    assert paused(run) == ["partition.1", "partition.3", "partition"]
    assert json.loads(run("resume", "partition", "1", "--json").stdout) == {"resumed": ["partition", "partition.1"]}
    assert paused(run) == ["partition.3"]


def test_pause_all_and_partitions_already_paused(run: Run) -> None:
    run("pause", "2")
    assert json.loads(run("pause", "--all", "--json").stdout)["paused"] == ["partition.0", "partition.1", "partition.3", "partition"]
    assert run("pause", "--all").stdout == "all of them were already paused\n"
    assert len(json.loads(run("resume", "--all", "--json").stdout)["resumed"]) == 5


@pytest.mark.parametrize("command", ["pause", "resume"])
def test_an_unknown_queue_is_refused_and_no_queue_is_wrong_usage(run: Run, refused: Refused, command: str) -> None:
    for queue in ("9", "partition.4", "other", "partition.x", "-1"):
        refused(command, "--", "1", queue, says="partition.0 to partition.3, and partition")
    refused(command, code=2)
    refused(command, "1", "--all", code=2)
    assert paused(run) == []


def test_drain_and_undrain_a_worker_by_its_node_name(run: Run, refused: Refused, client: redis.Redis) -> None:
    balance(client, Names("partition"), "celery@host/1", lease_seconds=60, partitions=4)
    assert json.loads(run("drain", "celery@host", "--json").stdout) == {"node": "celery@host", "changed": True}
    assert run("drain", "celery@host").stdout == "celery@host is already drained\n"
    (row,) = json.loads(run("workers", "--json").stdout)
    assert (row["node"], row["draining"], len(row["queues"])) == ("celery@host", True, 5)
    assert "yes" in run("workers").stdout
    assert json.loads(run("undrain", "celery@host", "--json").stdout)["changed"] is True
    refused("drain", "unknown", says="Workers: celery@host")


def test_a_policy_is_shown_changed_and_reset(run: Run) -> None:
    assert "every exception" in run("policy", update.name).stdout
    before = json.loads(run("policy", update.name, "--json").stdout)
    assert before == {
        "computation": update.name,
        "policy": {
            "attempts": 3,
            "backoff_seconds": 1.0,
            "longest_backoff_seconds": 300.0,
            "jitter": 0.1,
            "exhausted": "park",
            "rate_limit": None,
            "burst": None,
            "only": ["BaseException"],
        },
        "changed": [],
    }
    run("policy", update.name, "--attempts", "0")
    after = json.loads(run("policy", update.name, "--exhausted", "hold", "--backoff", "0.5", "--json").stdout)
    assert after["changed"] == ["attempts", "backoff_seconds", "exhausted"]
    assert (after["policy"]["attempts"], after["policy"]["exhausted"], after["policy"]["jitter"]) == (0, "hold", 0.1)
    table = run("policy", update.name).stdout
    assert ["exhausted", "hold", "park"] in [line.split() for line in table.splitlines()]
    assert json.loads(run("policy", update.name, "--reset", "--json").stdout) == before


def test_a_rate_limit_is_changed_lifted_and_reset(run: Run, refused: Refused) -> None:
    assert "100/m" in run("policy", limited.name).stdout
    after = json.loads(run("policy", limited.name, "--rate-limit", "200/s", "--burst", "3", "--json").stdout)
    assert (after["policy"]["rate_limit"], after["policy"]["burst"]) == ("200/s", 3)
    after = json.loads(run("policy", limited.name, "--rate-limit", "40/s", "--json").stdout)
    assert (after["policy"]["rate_limit"], after["policy"]["burst"]) == ("40/s", 2)
    run("policy", limited.name, "--rate-limit", "none")
    assert ["rate_limit", "none", "100/m"] in [line.split() for line in run("policy", limited.name).stdout.splitlines()]
    run("policy", limited.name, "--reset")
    assert "none" not in run("policy", limited.name).stdout
    refused("policy", limited.name, "--rate-limit", "fast", says="'fast' is not a rate", code=2)
    refused("policy", update.name, "--rate-limit", "1/s", says="declares no rate limit", code=2)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--attempts", "-1"], 2),
        (["--backoff", "-1"], 2),
        (["--backoff", "inf"], 2),
        (["--backoff", "nan"], 2),
        (["--jitter", "2"], 2),
        (["--jitter", "nan"], 2),
        (["--exhausted", "explode"], 2),
        (["--reset", "--attempts", "1"], 2),
    ],
)
def test_an_invalid_policy_is_wrong_usage(run: Run, client: redis.Redis, words: list[str], code: int) -> None:
    assert run("policy", update.name, *words).exit_code == code
    assert not client.exists("{partition}:policies")
    assert run("policy", "unknown").exit_code == 1
