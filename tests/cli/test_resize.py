"""`partitions resize`."""

from __future__ import annotations

import json

import redis

from celery_partitions.store.leases import Lease, balance
from celery_partitions.store.names import Names
from celery_partitions.store.resize import note_epoch, note_progress
from tests.cli.conftest import Refused, Run

NAMES = Names("partition")


def move_all(client: redis.Redis, epoch: int, partitions: int) -> None:
    """What workers do."""
    for partition in (*map(str, range(partitions)), "ingress"):
        client.hsetnx(NAMES.meta(partition), "token", 7)
        token = int(client.hget(NAMES.meta(partition), "token") or 0)
        for what in ("epoch", "moved"):
            assert note_progress(client, NAMES, Lease(partition, token), epoch, what) == "ok"  # type: ignore[arg-type]


def test_a_resize_is_begun_shown_and_finished(run: Run, client: redis.Redis) -> None:
    assert "no resize is in progress; the group has 4 partitions" in run("resize", "--status").stdout
    begun = run("resize", "8", "--yes", "--wait", "0", "--json")
    assert begun.exit_code == 1  # the keys have not moved
    assert json.loads(begun.stdout)["state"] == "moving"
    assert "is not finished" in run("resize", "16", "--yes").stderr
    assert "have not moved yet" in run("resize", "--finish").stderr
    move_all(client, 1, 8)
    shown = json.loads(run("resize", "--status", "--json").stdout)
    assert (shown["state"], shown["partitions"], shown["former"], shown["moved"]) == ("waiting for producers", 8, 4, 9)
    assert "all keys have moved; no message came for the former number" in run("resize", "--status").stdout
    assert "the group has 8 partitions" in run("resize", "--finish").stdout
    assert len(json.loads(run("status", "--json").stdout)) == 9
    assert [one["what"] for one in json.loads(run("audit", "--json").stdout)][:2] == ["resize finish", "resize"]
    assert "no resize is in progress" in run("resize", "--abort").stderr


def test_an_abort_goes_back_once(run: Run, client: redis.Redis) -> None:
    run("resize", "8", "--yes", "--wait", "0")
    assert json.loads(run("resize", "--abort", "--wait", "0", "--json").stdout)["partitions"] == 4
    assert "goes back to 4 partitions already" in run("resize", "--abort").stderr
    move_all(client, 2, 8)
    assert "the group has 4 partitions" in run("resize", "--finish").stdout


def test_a_resize_to_fewer_is_aborted_only_before_keys_have_moved(run: Run, client: redis.Redis) -> None:
    run("resize", "2", "--yes", "--wait", "0")
    move_all(client, 1, 4)
    assert "cannot be undone" in run("resize", "--abort").stderr


def test_what_cannot_be_done_is_refused_with_what_to_do(run: Run, refused: Refused, client: redis.Redis) -> None:
    for number, says in (("6", "neither a multiple nor a divisor"), ("4", "has 4 partitions already"), ("0", "from 1 to"), ("8192", "from 1 to")):
        refused("resize", number, "--yes", says=says)
    refused("resize", "8", says="Pass --yes")
    refused("resize", code=2)
    refused("resize", "8", "--abort", code=2)
    balance(client, NAMES, "older@host/1", lease_seconds=60, partitions=4)
    refused("resize", "8", "--yes", says="worker older@host runs a release that cannot follow a resize")
    note_epoch(client, NAMES, "older@host/1", 0)
    assert run("resize", "8", "--yes", "--wait", "0", "--json").stdout
