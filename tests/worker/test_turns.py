"""Each partition gets an equal share of the loop's time, and an idle one does not wait for the others' backlogs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

from celery_partitions.store.leases import Lease
from celery_partitions.worker.owned import OwnedPartition
from celery_partitions.worker.turns import Turns
from tests.fundamentals.application import record
from tests.fundamentals.live import LiveGroup
from tests.support.applications.sequences import Step
from tests.worker.by_hand import loop_by_hand


def made(*names: str) -> dict[str, OwnedPartition]:
    return {name: OwnedPartition(Lease(name, 1), time.monotonic) for name in names}


def take(turns: Turns, ready: Mapping[str, OwnedPartition], seconds: Mapping[str, float], times: int) -> list[str]:
    """The partitions that got the turns, if a turn of each takes this many seconds."""
    had = []
    for _ in range(times):
        owned = turns.next(ready.values())
        assert owned is not None
        turns.charge(owned, seconds.get(owned.partition, 0.0))
        had.append(owned.partition)
    return had


def test_a_server_that_stood_still_costs_its_partition_no_turns(make_live: Callable[..., LiveGroup]) -> None:
    """Else the others, if they are busy, would be served for as long, each of them, before it."""
    live = make_live(PARTITIONS=2)
    live.send(record, [Step(f"key-{number}", 1) for number in range(20)])
    with loop_by_hand(live) as loop:
        owned = loop.owned_partitions["0"]
        began = time.monotonic()
        live.client.client_pause(2500)
        loop.work(owned)
        loop.commits.settle()
        assert time.monotonic() - began > 2
        assert owned.used_seconds < 1.5


def test_no_partition_is_ready() -> None:
    assert Turns().next([]) is None


def test_equal_partitions_take_turns() -> None:
    had = take(Turns(), made("0", "1", "2"), {"0": 0.2, "1": 0.2, "2": 0.2}, 9)
    assert all(sorted(had[at : at + 3]) == ["0", "1", "2"] for at in (0, 3, 6))


def test_turns_that_take_no_time_are_also_shared() -> None:
    assert sorted(take(Turns(), made("0", "1"), {}, 4)) == ["0", "0", "1", "1"]


def test_a_slow_partition_gets_fewer_turns() -> None:
    had = take(Turns(), made("slow", "quick"), {"slow": 1.0, "quick": 0.1}, 110)
    assert 9 <= had.count("slow") <= 11


def test_an_idle_partition_goes_first_and_does_not_accumulate_time() -> None:
    turns, owned_partitions = Turns(), made("0", "1", "idle")
    busy = {name: owned_partitions[name] for name in ("0", "1")}
    take(turns, busy, {"0": 0.2, "1": 0.2}, 100)
    had = take(turns, owned_partitions, dict.fromkeys(owned_partitions, 0.2), 6)
    assert had[0] == "idle"
    assert had.count("idle") == 2
