"""Async and threaded computations with `holds="computation"`: while their message waits, the other computations of the key go on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celery_partitions.model.own_lines import own_line
from celery_partitions.store.leases import remember_computations
from celery_partitions.worker import batch_reader
from tests.fundamentals.live import LiveGroup
from tests.support.applications import waiting
from tests.support.applications.waiting import (
    BROKEN,
    Visit,
    begun,
    overlaps,
    own_threaded_visit,
    own_visit,
    plain_visit,
    recorded,
    visit,
)
from tests.worker.by_hand import LoopByHand, loop_by_hand
from tests.worker.test_calls_in_flight import until_drained

OWN = pytest.mark.parametrize("own", [own_visit, own_threaded_visit], ids=["async", "threads"])


#: Options of the fixture `loop`.
LOOP = {"calls": True}


@pytest.fixture(params=["all in memory", "too many to load"])
def live(make_live: Callable[..., LiveGroup], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Iterator[LiveGroup]:
    if request.param == "too many to load":
        monkeypatch.setattr(batch_reader, "MAX_LOADED", 0)
    live = make_live(PARTITIONS=1, PARTITIONS_RETRY_ATTEMPTS=0, PARTITIONS_RETRY_LONGEST_BACKOFF_SECONDS=1000)
    live.client.set(BROKEN, 1)
    remember_computations(live.client, live.names, [own_visit.name, own_threaded_visit.name])  # as a worker does when it starts
    with waiting.recording_to(live.settings.redis_url, monkeypatch):
        yield live


def begin_with_a_failure(live: LiveGroup, loop: LoopByHand, own: Any) -> None:
    """Message 2 waits in the own line, and the other computations of its key go on."""
    live.send(own, [Visit("k", 1, 0.01), Visit("k", 2, trick="broken"), Visit("k", 3), Visit("other", 4)])
    live.send(visit, [Visit("k", 5, 0.05)])
    live.send(plain_visit, [Visit("k", 6)])
    live.send(own, [Visit("k", 7, 0.05)])
    live.send(visit, [Visit("k", 8)])
    loop.look_again()
    loop.live_until(lambda: live.numbers_of(visit, "k") == [5, 8] and [one.waiting for one in live.group.parked_keys.of_key("k")] == [3])
    (parked,) = live.group.parked_keys.of_key("k")
    assert (parked.key, parked.holds, parked.why) == (own_line("k", own.name), "computation", "retry")
    assert live.numbers_of(plain_visit, "k") == [6]
    assert live.numbers(own) == {"k": [1], "other": [4]}


@OWN
def test_only_its_own_messages_wait_and_keep_their_order(
    live: LiveGroup, loop: LoopByHand, own: Any, caplog: pytest.LogCaptureFixture
) -> None:
    begin_with_a_failure(live, loop, own)
    assert "no retry is left" not in caplog.text and "the key waits; next try in" in caplog.text
    live.client.delete(BROKEN)
    assert live.group.parked_keys.retry(own_line("k", own.name), by="a test") == "ok"
    loop.owned.notify(loop.owned.edit_version + 1, paused=False)
    live.send(own, [Visit("k", 9, 0.05), Visit("k", 10)])
    live.send(visit, [Visit("k", 11, 0.05)])
    until_drained(live, loop)
    assert live.numbers_of(own, "k") == [1, 2, 3, 7, 9, 10]
    assert live.numbers_of(visit, "k") == [5, 8, 11]
    lines = recorded(live.client)
    assert overlaps(lines) == []
    assert begun(lines)["k"].count(2) == 2


@OWN
def test_the_next_holder_goes_on_with_the_line(live: LiveGroup, own: Any) -> None:
    with loop_by_hand(live) as first:
        first.begin_calls()
        begin_with_a_failure(live, first, own)
        first.end_calls()
    live.client.delete(BROKEN, live.names.owners, live.names.workers)
    live.client.hdel(live.names.meta("0"), "token", "holder")
    live.group.parked_keys.retry(own_line("k", own.name), by="a test")
    with loop_by_hand(live) as second:
        second.begin_calls()
        live.send(own, [Visit("k", 9)])
        until_drained(live, second)
        second.end_calls()
    assert live.numbers_of(own, "k") == [1, 2, 3, 7, 9]
    assert overlaps(recorded(live.client)) == []


def test_a_line_and_its_key_fall_due_together_and_their_calls_do_not_overlap(live: LiveGroup, loop: LoopByHand) -> None:
    begin_with_a_failure(live, loop, own_visit)
    live.send(visit, [Visit("k", 20, 0.2), Visit("k", 21, 0.05)])
    loop.look_again()
    loop.live_until(lambda: "begin k 20" in recorded(live.client))
    live.client.delete(BROKEN)
    live.group.parked_keys.retry(own_line("k", own_visit.name), by="a test")
    loop.owned.notify(loop.owned.edit_version + 1, paused=False)
    until_drained(live, loop)
    assert overlaps(recorded(live.client)) == []
    assert (live.numbers_of(visit, "k"), live.numbers_of(own_visit, "k")) == ([5, 8, 20, 21], [1, 2, 3, 7])
