"""`partitions timers`, `partitions expire` and `partitions beat`."""

from __future__ import annotations

import json
from dataclasses import dataclass

import pytest
import redis

from celery_partitions import Timer, key_extractor, state_computation
from celery_partitions.model.keys import partition_of
from celery_partitions.model.schedules import schedule_of
from celery_partitions.model.timers import Entries, TimerEntry, alarm_entry
from celery_partitions.store.codec import StateCodec
from tests.cli.conftest import Refused, Run


@dataclass
class Ring:
    who: str


class Rung:
    count = 0


@key_extractor
def who(ring: Ring) -> str:
    return ring.who


@state_computation("tests.cli: ring", state=Rung, key=who, ttl=60)
def ring(ring: Ring, rung: Rung) -> None: ...


@ring.on_timer("bell")
@ring.on_timer("hourly")
def bell(timer: Timer, rung: Rung) -> None: ...


DUE = 1_900_000_000_000


def put(client: redis.Redis, key: str, timers: Entries | None) -> None:
    record = StateCodec().dump(ring.computation, key, Rung(), timers)
    client.hset(f"{{partition.{partition_of(key, 4)}}}:state:{ring.name}", key, record)


@pytest.fixture
def ann(client: redis.Redis) -> None:
    hourly = TimerEntry(DUE + 1000, DUE, b'{"a":"\\u001b[31m"}', schedule_of(3600, "UTC", "one"))
    put(client, "ann", Entries({"bell": TimerEntry(DUE, DUE), "hourly": hourly, "": TimerEntry(DUE + 2000, DUE)}))


def test_the_timers_of_a_key_are_shown(run: Run, ann: None) -> None:
    rows = json.loads(run("timers", "ann", "--json").stdout)
    assert [(row["name"], row["due"], row["repeats"], row["key"]) for row in rows] == [
        ("bell", DUE / 1000, None, "ann"),
        ("hourly", DUE / 1000 + 1, "every 1:00:00", "ann"),
        ("", DUE / 1000 + 2, None, "ann"),
    ]
    text = run("timers", "ann").stdout
    assert "2030-03-17 17:46:40" in text and "(expiry)" in text
    assert "\x1b" not in text
    assert json.loads(run("timers", "bob", "--json").stdout) == []


def test_the_timers_of_a_partition_come_in_pages(run: Run, client: redis.Redis, ann: None) -> None:
    partition = partition_of("ann", 4)
    expiry, bell, hourly = (one.name for one in (ring.computation.handlers[name] for name in ("", "bell", "hourly")))
    alarms = {alarm_entry(bell, "ann"): DUE, alarm_entry(bell, "gone"): DUE, alarm_entry(hourly, "ann"): DUE + 1, alarm_entry(expiry, "ann"): DUE + 2}
    client.zadd(f"{{partition.{partition}}}:delayed", {**alarms, alarm_entry("unknown @ x", "ann"): DUE + 3, b"0.0:{}": DUE + 4})  # type: ignore[dict-item]
    words = ("timers", "--partition", str(partition))
    first = json.loads(run(*words, "--json", "--limit", "3").stdout)
    assert ([(one["name"], one["key"], one["due"]) for one in first["timers"]], first["next"]) == (
        [("bell", "ann", DUE / 1000), ("hourly", "ann", DUE / 1000 + 1)], 3,
    )  # fmt: skip
    second = json.loads(run(*words, "--json", "--start", "3").stdout)
    assert ([one["name"] for one in second["timers"]], second["next"]) == ([""], None)
    text = run(*words, "--limit", "4").stdout
    assert "(expiry)" in text and "There is more: --start 4" in text
    for wrong in (("timers",), ("timers", "ann", "--partition", "0"), ("timers", "--partition", "0", "--cancel", "bell"), ("timers", "--partition", "9")):
        assert run(*wrong).exit_code == 2


def test_a_timer_is_cancelled_and_the_others_stay(run: Run, refused: Refused, ann: None) -> None:
    assert run("timers", "ann", "--cancel", "bell", "--yes").exit_code == 0
    assert [row["name"] for row in json.loads(run("timers", "ann", "--json").stdout)] == ["hourly", ""]
    assert "cancel timer" in run("audit").stdout
    refused("timers", "ann", "--cancel", "bell", "--yes", says="0 timers of 'ann' are named 'bell'. Set: 'hourly' of 'tests.cli: ring'")


def test_keys_that_expire_are_counted_and_older_ones_started(run: Run, refused: Refused, client: redis.Redis, ann: None) -> None:
    put(client, "old", None)
    counted = json.loads(run("expire", ring.name, "--dry-run", "--json").stdout)
    assert (counted["keys"], counted["later"], counted["without"], counted["started"]) == (2, 1, 1, 0)
    assert json.loads(run("expire", ring.name, "--yes", "--json").stdout)["started"] == 1
    assert client.llen(f"partition.{partition_of('old', 4)}") == 1
    refused("expire", "tests.cli: update", "--dry-run", says="has no ttl=")


def test_a_schedule_that_nobody_runs(run: Run) -> None:
    result = run("beat")
    assert result.exit_code == 0
    assert "no worker has started with PARTITIONS_BEAT=1" in result.stderr
