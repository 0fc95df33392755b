"""Each rule of the attention list, one by one, on facts made by hand."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from celery_partitions.admin.attention import RULES, Attention, counts, drained, look
from celery_partitions.admin.attention_facts import Facts, Pace, ParkedCause, Pause, SinkFact, SourceFact, pace
from celery_partitions.admin.checks import Check
from celery_partitions.admin.dead_letter_query import DeadLetterGroup
from celery_partitions.admin.overview import Overview, PartitionOverview
from celery_partitions.admin.resize import Progress
from celery_partitions.admin.status import PartitionStatus
from celery_partitions.admin.workers import WorkerStatus
from celery_partitions.store.history import Point
from celery_partitions.store.telemetry import Measurements
from celery_partitions.store.worker_reports import WorkerReport

NOW = 1_800_000_000.0


def partition(name: str = "3", *, owner: str | None = "one@h", waiting: int = 0, processed: int = 0, paused: bool = False, **more: Any) -> PartitionOverview:
    status = PartitionStatus(f"partition.{name}", owner, waiting, processed, 0, 0, 0, paused=paused, delayed=0)
    zeros = dict.fromkeys(("failed", "forwarded", "emitted", "deduplicated", "skipped", "late", "dead_lettered"), 0)
    none = dict.fromkeys(("lease_age_seconds", "oldest_age_seconds", "state_bytes"))
    return PartitionOverview(partition=name, status=status, **{**none, **zeros, **more})  # type: ignore[arg-type]


def worker(node: str = "one@h", lease: float = 9.0, *, code: str = "aaaa", started: float = NOW - 7200) -> WorkerStatus:
    report = WorkerReport(NOW, started, "h", 1, "1.0", code, "3.11")
    return WorkerStatus(node, [], [], False, lease, report)


def facts(*partitions: PartitionOverview, **more: Any) -> Facts:
    return Facts(Overview(NOW, partitions), **{"workers": [worker()], **more})


def only(found: list[Attention], rule: str) -> Attention:
    assert [one.rule for one in found] == [rule]
    return found[0]


def test_a_healthy_group_needs_nobody() -> None:
    busy = Pace(300, 100, 100, 50, idle_since=NOW, behind_since=NOW - 5)
    assert look(facts(partition(waiting=60), paces={"3": busy})) == []
    assert set(counts([]).values()) == {0}


def test_a_resize_whose_keys_do_not_move() -> None:
    moving = Progress("moving", 8, 4, 1, False, 9, 8, 7, 0, 0, 90.0, None, ("3", "5"))
    found = only(look(facts(partition(), resize=moving)), "resize")
    assert "from 4 to 8 partitions: the keys of 2 partitions do not move" in found.what and found.since == NOW - 90
    for fine in (replace(moving, seconds=5.0), replace(moving, state="waiting for producers", not_moved=())):
        assert look(facts(partition(), resize=fine)) == []


def test_no_owner() -> None:
    found = only(look(facts(partition("3", owner=None, waiting=7), partition("4"), last_points={"3": NOW - 90})), "no-owner")
    assert (found.severity, found.since, found.count, found.page) == ("critical", NOW - 90, 1, "partition/3")
    assert "partition.3" in found.what and "7 messages" in found.why
    alone = only(look(facts(*(partition(str(number), owner=None) for number in range(9)), workers=[])), "no-owner")
    assert (alone.what, alone.since, alone.count) == ("no worker is running", None, 9)


IDLE = Pace(300, 5, 0, 10, idle_since=NOW - 40, behind_since=NOW - 100)


def test_stalled() -> None:
    found = only(look(facts(partition(waiting=1399), paces={"3": IDLE})), "stalled")
    assert (found.severity, found.since, found.page) == ("critical", NOW - 40, "partition/3")
    assert "1,399 messages wait, and none was done for 40 s" in found.why
    assert "one@h" in found.action


@pytest.mark.parametrize(
    ("row", "why"),
    [
        (partition(waiting=9, paused=True), "it is paused"),
        (partition(waiting=0), "nothing waits"),
    ],
)
def test_what_is_not_stalled(row: PartitionOverview, why: str) -> None:
    assert "stalled" not in {one.rule for one in look(facts(row, paces={"3": IDLE}))}, why


def test_a_partition_whose_batches_are_long_is_not_stalled_sooner() -> None:
    measured = Measurements()
    measured.batch.observe((1.0,), 1.0)
    measured.computation.total = 100.0
    slow = partition(waiting=9, measurements=measured)
    assert look(facts(slow, paces={"3": IDLE._replace(idle_since=NOW - 200)})) == []
    assert only(look(facts(slow, paces={"3": IDLE._replace(idle_since=NOW - 301)})), "stalled")


@pytest.mark.parametrize(
    ("waiting", "seen", "when"),
    [
        (5_000, Pace(300, 20, 10, 2_000, NOW, NOW - 300), "never drained at this rate"),
        (60_000, Pace(300, 10, 60, 70_000, NOW, NOW - 300), "drained in 20 min at this rate"),
        (60_000, Pace(300, 10, 1_000, 70_000, NOW, NOW - 300), None),
        (5_000, Pace(300, 20, 20, 5_000, NOW, NOW - 300), None),
        (50, Pace(300, 20, 10, 0, NOW, NOW - 300), None),
        (5_000, Pace(0, idle_since=NOW, behind_since=NOW - 5), None),
    ],
)
def test_falling_behind(waiting: int, seen: Pace, when: str | None) -> None:
    found = look(facts(partition(waiting=waiting), paces={"3": seen}))
    if when is None:
        assert found == []
    else:
        assert when in only(found, "falling-behind").why
        assert found[0].since == NOW - 300


def test_the_time_until_a_backlog_is_drained() -> None:
    assert drained(100, 5, 15) == "drained in 10 s at this rate"
    assert drained(100, 15, 15) == "never drained at this rate"


def test_takeovers_of_the_last_ten_minutes() -> None:
    found = only(look(facts(partition(takeovers=(NOW - 30, NOW - 590, NOW - 700)))), "takeovers")
    assert (found.severity, found.count, found.since) == ("warning", 2, NOW - 590)
    often = only(look(facts(partition(takeovers=(NOW - 10, NOW - 20, NOW - 30)))), "takeovers")
    assert often.severity == "critical" and "3 times" in often.why
    assert look(facts(partition(takeovers=(NOW - 700,)))) == []


def cause(why: str, **more: Any) -> ParkedCause:
    return ParkedCause(**{"why": why, "task": "pay", "error": "Closed: the bank", "count": 4, "waiting": 9, "since": NOW - 60, "example": "alice", **more})


@pytest.mark.parametrize(
    ("why", "severity", "text"),
    [
        ("hold", "critical", "no retry is left"),
        ("retry", "warning", "will be retried"),
        ("unknown-task", "warning", "no worker knows their task"),
        ("unreadable-state", "warning", "no worker can read their state"),
    ],
)
def test_parked_keys_by_cause(why: str, severity: str, text: str) -> None:
    found = only(look(facts(partition(), parked=[cause(why)])), "parked")
    assert (found.severity, found.since, found.count) == (severity, NOW - 60, 4)
    assert found.what == "4 parked keys of pay: Closed: the bank"
    assert text in found.why and "9 messages wait" in found.why
    assert found.page == f"partitions/parked?why={why}&task=pay"


def test_a_running_call_is_reported_after_ten_minutes() -> None:
    assert look(facts(partition(), parked=[cause("running")])) == []
    assert only(look(facts(partition(), parked=[cause("running", since=NOW - 700)])), "parked")


def test_held_keys_come_before_those_that_are_retried() -> None:
    found = look(facts(partition(), parked=[cause("retry", waiting=1000), cause("hold")]))
    assert [one.severity for one in found] == ["critical", "warning"]


def test_hostile_text_stays_on_one_short_line() -> None:
    (found,) = look(facts(partition(), parked=[cause("hold", error="x\n\x1b[31m" + "y" * 500, example="k\n")]))
    assert "\n" not in found.what + found.why
    assert "\x1b" not in found.what
    assert len(found.what) < 150


def test_new_kinds_of_dead_letters() -> None:
    new, old, in_place = (DeadLetterGroup(name, 1) for name in ("f1", "f2", "f3"))
    for one in (new, old, in_place):
        one.error, one.count, one.oldest_died_at, one.newest_died_at = "ValueError: no", 8, NOW - 3600, NOW - 60
    old.oldest_died_at, in_place.in_place = NOW - 90_000, 8
    found = only(look(facts(partition(), dead_letter_kinds=[new, old, in_place])), "dead-letters")
    assert (found.since, found.count, found.page) == (NOW - 3600, 8, "partitions/dead-letters?fingerprint=f1")
    assert "ValueError: no" in found.what


def test_paused_and_by_whom() -> None:
    rows = [partition("1", paused=True, waiting=5), partition("2", paused=True), partition("3", paused=True)]
    pauses = {"1": Pause("eve", NOW - 90), "2": Pause("eve", NOW - 50)}
    first, second = look(facts(*rows, pauses=pauses))
    assert (first.rule, first.what, first.since) == ("paused", "2 partitions paused by eve: partition.1, partition.2", NOW - 90)
    assert second.what == "1 partition paused by a failure policy: partition.3"


@pytest.mark.parametrize(
    ("sink", "text"),
    [
        (SinkFact("out", 5, None, None), "no process delivers them"),
        (SinkFact("out", 5, "one@h", NOW - 70), "none was delivered"),
        (SinkFact("out", 5, "one@h", NOW - 10), None),
        (SinkFact("out", 0, None, None), None),
    ],
)
def test_a_sink_that_does_not_move(sink: SinkFact, text: str | None) -> None:
    found = look(facts(partition(), sinks=[sink]))
    assert (text in only(found, "sink").why) if text else found == []


def test_a_source_without_a_process() -> None:
    assert only(look(facts(partition(), sources=[SourceFact("numbers", NOW - 70)])), "source").since == NOW - 70


def test_workers_with_different_code() -> None:
    old, new = worker("old@h"), worker("new@h", code="bbbb", started=NOW - 3000)
    found = only(look(facts(partition(), workers=[old, new])), "versions")
    assert (found.since, found.count) == (NOW - 3000, 1)
    assert "old@h" in found.what
    young = worker("new@h", code="bbbb", started=NOW - 60)
    assert look(facts(partition(), workers=[old, young])) == [], "a deploy takes some time"


def test_leases_that_are_about_to_end() -> None:
    found = only(look(facts(partition(), workers=[worker(lease=2.0)], lease_seconds=10.0)), "leases")
    assert "one@h" in found.what and "2 s" in found.why
    assert look(facts(partition(), workers=[worker(lease=6.0)], lease_seconds=10.0)) == []


def test_the_warnings_of_doctor_about_the_server() -> None:
    checks = [Check("memory", "bad", "95% of maxmemory"), Check("persistence", "warn", "off")]
    assert [(one.severity, one.why) for one in look(facts(partition(), server=checks))] == [
        ("critical", "95% of maxmemory"), ("warning", "off"),
    ]  # fmt: skip


def test_the_worst_comes_first_and_every_rule_can_be_counted() -> None:
    found = look(facts(partition("1", paused=True), partition("2", owner=None), parked=[cause("hold")]))
    assert [one.rule for one in found] == ["no-owner", "parked", "paused"]
    names = [rule.name for rule in RULES]
    assert len(set(names)) == len(names)
    assert counts(found).items() >= {"no-owner": 1, "parked": 4, "paused": 1, "stalled": 0}.items()
    assert list(counts(found)) == names
    assert all(re.fullmatch(r"[a-z-]+", name) for name in names)


def points(*rows: tuple[int, int, int]) -> list[Point]:
    """Points from (seconds ago, messages done, waiting)."""
    return [Point(int(NOW) - ago, left, 0, 0, waiting, 0, 0, 0, -1, -1) for ago, left, waiting in rows]


@pytest.mark.parametrize(
    ("recent", "expected"),
    [
        (points((100, 0, 10), (50, 500, 20)), Pace(100, 10.4, 10, 10, NOW, NOW - 100)),
        (points((100, 900, 0), (60, 1000, 5), (50, 1000, 20)), Pace(100, 1.5, 1, 0, NOW - 60, NOW - 60)),
        (points((100, 1000, 50), (50, 1000, 50)), Pace(100, 0, 0, 50, NOW - 100, NOW - 100)),
        (points((5, 0, 10)), Pace(0, idle_since=NOW, behind_since=NOW - 5)),
        ([], Pace(0, idle_since=NOW, behind_since=NOW)),
    ],
)
def test_the_pace_of_a_partition(recent: list[Point], expected: Pace) -> None:
    assert pace(partition(waiting=50, processed=1000), NOW, recent, []) == expected


def test_older_points_say_how_long_nothing_was_done() -> None:
    recent, older = points((20, 1000, 5), (10, 1000, 5)), points((3600, 900, 5), (600, 1000, 5), (300, 1000, 5))
    assert pace(partition(waiting=5, processed=1000), NOW, recent, older).idle_since == NOW - 600


