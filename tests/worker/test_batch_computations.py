"""Batch computations in a worker's loop, plain and outside of it: what one call gets, its order among other computations, failures, operators."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from celery_partitions import StateComputation
from celery_partitions.admin.exporter import Exporter
from celery_partitions.admin.importer import Importer
from celery_partitions.admin.parked_keys import ParkedKeys
from celery_partitions.admin.pause import pause, resume
from celery_partitions.model.policy import PolicyChange
from celery_partitions.store.leases import balance
from celery_partitions.store.measurements import read_computations
from celery_partitions.store.names import Names
from celery_partitions.worker.measurer import Measurer
from tests.fundamentals.live import LiveGroup
from tests.support.applications import batches
from tests.support.applications.batches import (
    GIVEN,
    Page,
    index,
    index_in_threads,
    index_later,
    index_slowly,
    index_slowly_later,
    one_page,
    one_page_later,
)
from tests.worker.by_hand import LoopByHand, loop_by_hand

Computation = StateComputation[Any, Any, Any]
KINDS = pytest.mark.parametrize("computation", [index, index_later, index_in_threads], ids=lambda one: one.name)
SLOW_KINDS = pytest.mark.parametrize("slow", [index_slowly, index_slowly_later], ids=lambda one: one.name)


#: Options of the fixture `loop`.
LOOP = {"calls": True}


@pytest.fixture
def live(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveGroup]:
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=1, PARTITIONS_RETRY_BACKOFF_SECONDS=0.01, PARTITIONS_RETRY_EXHAUSTED="dead_letter")
    monkeypatch.setenv("REDIS_URL", live.settings.redis_url)
    batches.recorder.cache_clear()
    yield live
    batches.recorder().close()
    batches.recorder.cache_clear()


def pages(count: int, key: str = "a", start: int = 0, **more: Any) -> list[Page]:
    return [Page(key, number, **more) for number in range(start, start + count)]


def given(live: LiveGroup) -> list[str]:
    return [line.decode() for line in live.client.lrange(GIVEN, 0, -1)]


def until_drained(live: LiveGroup, loop: LoopByHand) -> None:
    loop.look_again()
    loop.live_until(lambda: not any(row.length or row.parked or row.running or row.delayed for row in live.group.status()))
    assert loop.calls is not None
    assert not loop.owned.calls or not loop.owned.calls.runs
    assert (loop.calls.in_flight.room.counts.total(), loop.calls.in_flight.room.bytes) == (0, 0)


@KINDS
def test_all_messages_of_all_keys_are_given_in_order(live: LiveGroup, loop: LoopByHand, computation: Computation) -> None:
    loop.reports.measurer = measurer = Measurer(loop.client, loop.names, {}, "by-hand")
    live.send(computation, [Page(f"k{number % 3}", number) for number in range(51)])
    until_drained(live, loop)
    assert live.numbers(computation) == {f"k{key}": list(range(key, 51, 3)) for key in range(3)}
    calls = [line.split()[1:] for line in given(live)]
    assert sorted(map(len, calls)) == [2] * 3 + [5] * 9
    assert live.processed() == 51
    measurer.write()
    found = read_computations(live.client, live.names)[computation.name]
    assert (found.processed, found.batches) == (51, 12)


@KINDS
@pytest.mark.parametrize("other", [None, one_page], ids=["alone", "mixed"])
def test_a_backlog_never_fills_a_mailbox(
    make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch, computation: Computation, other: Computation | None
) -> None:
    """The messages of a key that only gathers are healthy, so there is no limit for them."""
    live = make_live(PARTITIONS=1, PARTITIONS_MAILBOX_MESSAGES=3, PARTITIONS_BATCH_MESSAGES=30)
    monkeypatch.setenv("REDIS_URL", live.settings.redis_url)
    batches.recorder.cache_clear()
    with loop_by_hand(live) as loop:
        loop.begin_calls()
        for start in range(0, 300, 20):
            live.send(computation, pages(18, start=start))
            live.send(other or computation, pages(2, start=start + 18))
        until_drained(live, loop)
        loop.end_calls()
    batches.recorder().close()
    batches.recorder.cache_clear()
    assert live.dead_letters() == []
    given_numbers = [int(number) for line in given(live) for number in line.split()[1:] if number != "one"]
    assert given_numbers == list(range(300))


@KINDS
def test_the_message_that_spoils_a_batch_is_found(live: LiveGroup, loop: LoopByHand, computation: Computation) -> None:
    sent = pages(11)
    sent[2].trick = "raises"
    live.send(computation, sent)
    until_drained(live, loop)
    assert live.numbers_of(computation, "a") == [0, 1, *range(3, 11)]
    (dead_letter,) = live.dead_letters()
    assert (dead_letter.reason, dead_letter.attempts, dead_letter.error) == ("computation-failed", 2, "ValueError: page 2")


@SLOW_KINDS
def test_a_message_of_another_computation_ends_the_gather_and_keeps_its_place(live: LiveGroup, loop: LoopByHand, slow: Computation) -> None:
    for other in (one_page, one_page_later):
        live.send(slow, pages(2))
        live.send(other, pages(1, start=2))
        live.send(slow, pages(5, start=3))
        live.send(other, pages(1, start=8))
    until_drained(live, loop)
    assert given(live) == [
        line for other in ("one", "later") for line in ("a 0 1", f"a {other} 2", "a 3 4 5 6 7", f"a {other} 8")
    ]


@SLOW_KINDS
def test_a_gather_goes_on_in_the_next_owner_and_an_operator_can_end_it(live: LiveGroup, loop: LoopByHand, slow: Computation) -> None:
    live.send(slow, pages(2))
    loop.look_again()
    loop.live_until(lambda: list(live.group.parked_keys.all()))
    (parked,) = live.group.parked_keys.all()
    assert (parked.why, parked.waiting, parked.task, parked.error) == ("gather", 2, slow.name, "")
    assert parked.due is not None
    assert 3500 < parked.due - live.group.now() <= 3600
    assert [(row.parked, row.running) for row in live.group.status() if row.parked or row.running] == [(0, 1)]
    loop.owned.forget_all()
    live.send(slow, pages(2, start=2))
    loop.look_again()
    loop.live_until(lambda: next(live.group.parked_keys.all()).waiting == 4)
    (later,) = live.group.parked_keys.all()
    assert (later.due, later.since) == (parked.due, parked.since)
    assert given(live) == []
    assert live.group.parked_keys.skip("a", by="a test") == "not-failed"
    assert live.group.parked_keys.retry("a", by="a test") == "ok"
    loop.owned.notify(loop.owned.edit_version + 1, paused=False)
    until_drained(live, loop)
    assert given(live) == ["a 0 1 2 3"]


@SLOW_KINDS
def test_the_message_that_makes_it_full_ends_the_gather(live: LiveGroup, loop: LoopByHand, slow: Computation) -> None:
    for number in range(5):
        live.send(slow, pages(1, start=number))
        loop.look_again()
        loop.live_until(lambda number=number: given(live) or next(live.group.parked_keys.all()).waiting == number + 1)  # type: ignore[misc]
    until_drained(live, loop)
    assert given(live) == ["a 0 1 2 3 4"]


def test_messages_behind_a_call_in_flight_gather_again(live: LiveGroup, loop: LoopByHand) -> None:
    live.send(index_later, pages(5, trick="waits"))
    loop.look_again()
    loop.live_until(lambda: loop.owned.calls is not None and loop.owned.calls.runs)
    live.send(index_later, pages(2, start=5))
    loop.look_again()
    loop.live_until(lambda: next(live.group.parked_keys.all()).waiting == 7)
    live.client.rpush("go", "now")
    loop.live_until(lambda: [one.why for one in live.group.parked_keys.all() if one.waiting == 2] == ["gather"])
    until_drained(live, loop)
    assert given(live) == ["a 0 1 2 3 4", "a 5 6"]


@KINDS
def test_each_message_gets_its_own_result(live: LiveGroup, loop: LoopByHand, computation: Computation) -> None:
    results = [live.app.send_task(computation.name, args=[{"key": "a", "number": number}], ignore_result=False) for number in range(5)]
    results += [live.app.send_task(computation.name, args=[{"key": "a", "number": 5, "trick": "raises"}], ignore_result=False)]
    until_drained(live, loop)
    assert [result.get(timeout=60) for result in results[:5]] == [0, 10, 20, 30, 40]
    with pytest.raises(ValueError, match="page 5"):
        results[5].get(timeout=60)


@KINDS
def test_revoked_and_expired_messages_are_left_out(live: LiveGroup, loop: LoopByHand, computation: Computation) -> None:
    live.send_task(computation.name, {"key": "a", "number": 0})
    live.send_task(computation.name, {"key": "a", "number": 1}, expires=datetime.now(UTC) - timedelta(minutes=5))
    live.send_task(computation.name, {"key": "a", "number": 2}, countdown=0.05)
    live.send_task(computation.name, {"key": "a", "number": 3})
    until_drained(live, loop)
    assert sorted(live.numbers_of(computation, "a")) == [0, 2, 3]


@KINDS
def test_an_outcome_that_redis_refuses_is_halved_too(live: LiveGroup, loop: LoopByHand, computation: Computation) -> None:
    loop.store.max_bytes = 300_000
    sent = pages(5)
    sent[3].trick = "huge"
    live.send(computation, sent)
    until_drained(live, loop)
    assert live.numbers_of(computation, "a") == [0, 1, 2, 4]
    assert [dead_letter.reason for dead_letter in live.dead_letters()] == ["unwritable"]


@SLOW_KINDS
def test_an_operator_can_skip_the_message_at_fault_but_no_batch(live: LiveGroup, loop: LoopByHand, slow: Computation) -> None:
    live.group.policies.change(slow.name, PolicyChange(attempts=1, backoff_seconds=3600, longest_backoff_seconds=3600, exhausted="hold"), by="a test")
    loop.follow(balance(loop.client, live.names, "by-hand/1", lease_seconds=60, partitions=1))
    loop.holdings.take_up_share()
    sent = pages(5)
    sent[1].trick = "raises"
    live.send(slow, sent)

    def attempt(size: int, number: int, why: str) -> None:
        loop.look_again()
        loop.live_until(lambda: [(one.size, one.attempt, one.why) for one in live.group.parked_keys.all()] == [(size, number, why)])

    def retry() -> None:
        assert live.group.parked_keys.retry("a", by="a test") == "ok"
        loop.owned.notify(loop.owned.edit_version + 1, paused=False)

    attempt(5, 2, "retry")
    assert live.group.parked_keys.skip("a", by="a test") == "batch"
    live.group.policies.change(slow.name, PolicyChange(attempts=0, exhausted="hold"), by="a test")
    loop.follow(balance(loop.client, live.names, "by-hand/1", lease_seconds=60, partitions=1))
    loop.holdings.take_up_share()
    retry()
    attempt(1, 2, "hold")
    assert live.numbers_of(slow, "a") == [0]
    assert live.group.parked_keys.skip("a", by="a test") == "ok"
    loop.owned.notify(loop.owned.edit_version + 1, paused=False)
    loop.look_again()
    loop.live_until(lambda: live.numbers_of(slow, "a") == [0, 2, 3, 4])
    assert [dead_letter.error for dead_letter in live.dead_letters()] == ["ValueError: page 1"]


@SLOW_KINDS
def test_a_gather_is_exported_and_goes_on_after_a_pause(live: LiveGroup, loop: LoopByHand, slow: Computation, tmp_path: Path) -> None:
    live.send(slow, pages(3))
    loop.look_again()
    loop.live_until(lambda: list(live.group.parked_keys.all()))
    before = list(live.group.parked_keys.all())
    file, other = tmp_path / "export", Names("other")
    Exporter(live.client, live.names, 1, by="a test").write(file, pause_all=False)
    Importer(live.client, other, live.group.topology, live.installation.computations, file).run(by="a test")
    assert list(ParkedKeys(live.client, other, live.group.topology, live.group.audit).all()) == before
    pause(live.client, live.names, ["0"], by="a test")
    live.send(slow, pages(2, start=3))
    loop.owned.forget_all()
    loop.take_turns()
    assert given(live) == []
    resume(live.client, live.names, ["0"], by="a test")
    loop.owned.forget_all()
    until_drained(live, loop)
    assert given(live) == ["a 0 1 2 3 4"]
