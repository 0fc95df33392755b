"""A computation with `holds="computation"`: while its message waits, the other computations of the key go on. The real loop, by hand."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import pytest

from celery_partitions.model.own_lines import own_line
from celery_partitions.store.leases import leases_of, release, remember_computations
from celery_partitions.worker import batch_reader
from tests.fundamentals.application import record
from tests.fundamentals.live import LiveGroup
from tests.support.applications.sequences import Step
from tests.support.applications.trouble import BROKEN, Trouble, alone
from tests.support.wait import wait_until
from tests.worker.by_hand import LoopByHand, loop_by_hand

LINE = own_line("k", "alone")


@pytest.fixture(params=["all in memory", "too many to load"])
def live(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> LiveGroup:
    if request.param == "too many to load":
        monkeypatch.setattr(batch_reader, "MAX_LOADED", 0)
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_LONGEST_BACKOFF_SECONDS=1000)
    monkeypatch.setenv("REDIS_URL", live.env["REDIS_URL"])
    live.client.set(BROKEN, 1)
    return live


def take(loop: LoopByHand) -> object:
    loop.look_again()
    loop.take_turns()
    return None


def test_only_its_own_messages_wait_and_keep_their_order(live: LiveGroup) -> None:
    remember_computations(live.client, live.names, ["alone", "record"])  # as a worker does when it starts
    with loop_by_hand(live) as loop:
        live.send(alone, [Trouble("k", 1), Trouble("k", 2, "fail"), Trouble("other", 3)])
        live.send(record, [Step("k", 1)])
        take(loop)
        live.send(alone, [Trouble("k", 4)])
        live.send(record, [Step("k", 2)])
        take(loop)
        assert (live.numbers(alone), live.numbers(record)) == ({"k": [1], "other": [3]}, {"k": [1, 2]})
        (waiting,) = live.group.parked_keys.of_key("k")
        assert (waiting.key, waiting.of_key, waiting.holds, waiting.waiting) == (LINE, "k", "computation", 2)
        (dead,) = live.dead_letters()
        assert (dead.in_place, dead.key, dead.task) == (True, "k", "alone")
    with loop_by_hand(live) as loop:  # a new holder reads the line from Redis
        live.send(alone, [Trouble("k", 5)])
        take(loop)
        assert live.numbers_of(alone, "k") == [1]
        live.client.delete(BROKEN)
        assert live.group.dead_letters.retry([dead]) == 1
        wait_until(lambda: take(loop) or live.numbers_of(alone, "k") == [1, 2, 4, 5])
        assert not live.dead_letters() and not live.group.parked_keys.of_key("k")
        assert live.client.keys("*mailbox*") == []


def test_its_failure_is_reported_as_one_that_is_retried(live: LiveGroup, caplog: pytest.LogCaptureFixture) -> None:
    with loop_by_hand(live) as loop, caplog.at_level(logging.WARNING):
        live.send(alone, [Trouble("k", 1, "fail")])
        take(loop)
    (line,) = [one for one in caplog.records if "raised" in one.getMessage()]
    assert (line.levelno, "next try in" in line.getMessage()) == (logging.WARNING, True)


def test_an_operator_skips_the_message(live: LiveGroup) -> None:
    with loop_by_hand(live) as loop:
        live.send(alone, [Trouble("k", 1, "fail"), Trouble("k", 2)])
        take(loop)
        assert live.group.parked_keys.skip(LINE, by="test") == "ok"
        wait_until(lambda: take(loop) or live.numbers_of(alone, "k") == [2])
        (dead,) = live.dead_letters()
        assert (dead.in_place, dead.key) == (False, "k")


def test_after_a_rename_its_messages_still_wait_in_the_line_of_the_former_name(live: LiveGroup) -> None:
    with loop_by_hand(live) as loop:
        live.send(alone, [Trouble("k", 1), Trouble("k", 2, "fail"), Trouble("k", 3)])
        take(loop)
    live.client.delete(BROKEN)
    renamed = replace(alone.computation, name="renamed", formerly=("alone",), stateful=[])
    live.installation.computations = {"renamed": renamed}
    release(live.client, live.names, "by-hand/1", leases_of(live.client, live.names, "by-hand/1"), leave=True)
    with loop_by_hand(live) as loop:
        live.app.send_task("renamed", args=[{"key": "k", "number": 4}], queue="partition.0")
        take(loop)
        assert live.group.states.get(renamed, "k").numbers == [1], "the message with the new name does not overtake"  # type: ignore[union-attr]
        assert live.group.parked_keys.retry(LINE, by="test") == "ok"
        wait_until(lambda: take(loop) or live.group.states.get(renamed, "k").numbers == [1, 2, 3, 4])  # type: ignore[union-attr]
        assert not live.group.parked_keys.of_key("k")
